"""A user's way in through the official Python SDK: oauth_python.py URL CALLBACK [DOCUMENT]; `oauth.py` is the user and his browser."""

import asyncio
import json
import sys
import urllib.parse

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from python_sdk import call, life


def ask(**what):
    print(json.dumps(what), flush=True)
    return sys.stdin.readline().strip()


class Memory:
    """What the client keeps."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Browser:
    async def open(self, url):
        back = await asyncio.to_thread(ask, open=url)
        self.answer = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(back).query))

    async def came_back(self):
        return AuthorizationCodeResult(code=self.answer["code"], state=self.answer["state"], iss=self.answer["iss"])


async def main(url, callback, document=None):
    browser = Browser()
    metadata = OAuthClientMetadata(client_name="python-sdk", redirect_uris=[callback], token_endpoint_auth_method="none")
    auth = OAuthClientProvider(url, metadata, Memory(), browser.open, browser.came_back, client_metadata_url=document)
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        async with Client(streamable_http_client(url, http_client=http), mode="2026-07-28") as client:
            before = [tool.name for tool in (await client.list_tools()).tools]
            # More than was allowed: the user is asked again.
            claimed = await call(client, "task_claim", agent_id="nobody", capabilities=["none"])
            assert claimed["tasks"] == [], claimed
            await asyncio.to_thread(ask, rest=True)
            await life(client)
            after = [tool.name for tool in (await client.list_tools()).tools]
    print(json.dumps({"before": before, "after": after}), flush=True)


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 120))
