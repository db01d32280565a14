"""The stateful API as one part of a gateway: its families of paths, and what runs behind them."""

import aiohttp

from serve.calls import Calls
from serve.config import GatewayConfig
from serve.responses.app import ROOT as RESPONSES
from serve.responses.app import Responses
from serve.responses.conversations import ROOT as CONVERSATIONS
from serve.responses.conversations import Conversations
from serve.responses.leases import Leases
from serve.responses.runner import Runner
from serve.responses.store import ResponseStore
from serve.routing import Routes


class StatefulApi:
    """``families`` by their roots; ``alive``: whether it still gives word of the responses that run."""

    def __init__(self, config: GatewayConfig, http: aiohttp.ClientSession, calls: Calls, routes: Routes) -> None:
        store = ResponseStore(http, config.control_plane_url, config.cluster_secret, config.responses)
        self._leases = Leases(store, config.responses)
        self._runner = Runner(calls, store, self._leases, config.responses)
        self.families = {
            RESPONSES: Responses(calls, routes, store, self._runner, config),
            CONVERSATIONS: Conversations(calls, store, config),
        }

    @property
    def alive(self) -> bool:
        """Whether leases are renewed."""
        return self._leases.alive

    def start(self) -> None:
        """Begin to give word."""
        self._leases.start()

    async def close(self) -> None:
        """End the responses in the background and record every end; the calls must be closing."""
        await self._runner.close()
        await self._leases.close()
