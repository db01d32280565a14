"""OpenAI's stateful API, ``/v1/responses`` and ``/v1/conversations``, over any model the platform serves."""
