"""The host core: core.c, how it is built, and how it is called. It knows neither arrays nor stores."""
