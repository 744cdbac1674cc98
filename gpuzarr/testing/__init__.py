"""For those who extend gpuzarr: the contracts that stores, codecs and devices have to pass, as test classes."""
