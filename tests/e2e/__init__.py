"""The whole chain as its users meet it: agents as processes, a client and a server on the library, real packets between."""
