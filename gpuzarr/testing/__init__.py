"""For those who extend gpuzarr: what stores, codecs and devices have to pass, as test classes."""
