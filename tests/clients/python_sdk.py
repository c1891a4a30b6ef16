"""One life of a task, and one visit to the tenant's rooms, through the official Python SDK: python_sdk.py MODE KIND TARGET...

MODE is what the client negotiates (legacy, auto, 2026-07-28); KIND is stdio (a command follows), http or sse (a URL follows).
Prints the negotiated protocol version; any broken promise raises.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import sys
import uuid
import warnings

from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

STORY = json.loads(pathlib.Path(__file__).with_name("story.json").read_text())


def same(what, got, want):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


def server(kind, target):
    if kind == "stdio":
        return StdioServerParameters(command=target[0], args=target[1:])
    return sse_client(target[0]) if kind == "sse" else target[0]


async def call(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    text = "".join(getattr(block, "text", "") for block in result.content)
    assert not result.is_error, f"{tool} was refused: {text}"
    assert text, f"{tool} answered without text for clients that ignore structured content"
    return result.structured_content


async def read(client, uri):
    (content,) = (await client.read_resource(uri)).contents
    same("resource uri", str(content.uri), uri)
    return content.text


async def life(client):
    listed = {tool.name for tool in (await client.list_tools()).tools}
    missing = set(STORY["tools"]) - listed
    assert not missing, f"tools/list lacks {sorted(missing)}"

    # A capability of its own keeps this life apart from the others on the same server.
    agent, capability = "python-sdk", f"cap-{uuid.uuid4().hex}"
    sent = await call(client, "task_dispatch", **STORY["dispatch"], required_capabilities=[capability])
    same("state after dispatch", sent["state"], "pending")
    task_id = sent["task_id"]

    (task,) = (await call(client, "task_claim", agent_id=agent, capabilities=[capability], max_tasks=5))["tasks"]
    same("claimed task", task["task_id"], task_id)
    same("task_data", task["task_data"], STORY["dispatch"]["task_data"])
    same("attempt", task["attempt"], 1)

    mine = {"task_id": task_id, "agent_id": agent, "lease_token": task["lease"]["token"]}
    await call(client, "task_notify", **mine, notification_type="started", data={})
    await call(client, "task_notify", **mine, notification_type="progress", data=STORY["progress"])
    same("state after end", (await call(client, "task_end", **mine, **STORY["end"]))["state"], "completed")

    done = await call(client, "task_get", task_id=task_id)
    same("final state", done["state"], "completed")
    same("result", done["result"], STORY["end"]["result"])
    told = [n["notification_type"].removeprefix("task_") for n in done["notifications"]]
    same("first notifications", told[:2], ["started", "progress"])
    sequences = [n["sequence"] for n in done["notifications"]]
    same("sequence order", sequences, sorted(set(sequences)))

    seen = json.loads(await read(client, f"baton://tasks/{task_id}"))
    same("task resource", (seen["task_id"], seen["state"]), (task_id, "completed"))
    report = await read(client, f"baton://tasks/{task_id}/report")
    assert "counted with wc" in report, f"the report lacks the summary: {report}"


class Ears:
    """What the client hears, whatever the era's way: as a message of its session, or by listening."""

    def __init__(self):
        self.notes = asyncio.Queue()

    async def __call__(self, message):
        if method := getattr(message, "method", None):
            await self.notes.put((method, getattr(message.params, "uri", None)))

    async def heard(self, method, uri=None):
        async with asyncio.timeout(20):
            while True:
                found = await self.notes.get()
                if found[0] == method and uri in (None, str(found[1])):
                    return

    @contextlib.asynccontextmanager
    async def listening(self, client, uri):
        if client.protocol_version < "2026":
            with warnings.catch_warnings(action="ignore"):
                await client.subscribe_resource(uri)
            yield
            return
        async with client.listen(tools_list_changed=True, resource_subscriptions=[uri]):
            # What it is told goes to the handler of messages too.
            yield


async def rooms(client, ears):
    agent, mark = "python-sdk", uuid.uuid4().hex[:12]
    marked = json.dumps(STORY["rooms"]).replace("MARK", mark).replace("OUTSIDE", os.environ["BATON_TEST_OUTSIDE"])
    story = json.loads(marked)
    folder, file, tool, tenant = story["folder"], story["file"], story["tool"], story["tenant"]
    uri = f"baton://resources/{folder['resource_id']}/{file['path']}"

    query = story["memory"].pop("query")
    kept = await call(client, "memory_write", agent_id=agent, **story["memory"])
    hit = (await call(client, "memory_search", query=query))["hits"][0]
    same("hit", (hit["memory_id"], hit["content"]), (kept["memory_id"], story["memory"]["content"]))
    assert hit["content"] in await read(client, f"baton://memory/{agent}/{kept['memory_id']}")

    secret = tool["implementation"]["auth"]["secret"]
    await call(client, "secret_set", name=secret, value=story["secret"])
    secrets = await call(client, "secret_list")
    assert secret in [one["name"] for one in secrets["secrets"]] and story["secret"] not in json.dumps(secrets)

    async def lists():
        return tool["name"] in [one.name for one in (await client.list_tools()).tools]

    async with ears.listening(client, uri):
        tool_id = (await call(client, "tool_create", **tool))["tool_id"]
        await ears.heard("notifications/tools/list_changed")
        assert await lists(), "tools/list lacks a tool that was made"
        same("call", await call(client, tool["name"], name="Ada"), {"greeting": "Hello Ada", "trusted": True})
        await call(client, "tool_update", tool_id=tool_id, manifest={"implementation": story["changed"]})
        await ears.heard("notifications/tools/list_changed")
        same("call", await call(client, tool["name"], name="Ada"), {"greeting": "Hola Ada", "trusted": True})
        await call(client, "tool_delete", tool_id=tool_id)
        await ears.heard("notifications/tools/list_changed")
        assert not await lists(), "tools/list has a tool that was deleted"

        await call(client, "resource_register", **folder)
        await call(client, "resource_write", resource_id=folder["resource_id"], **file)
        await ears.heard("notifications/resources/updated", uri)
        same("file", await read(client, uri), file["text"])
    await call(client, "resource_register", **story["service"])
    answered = await call(client, "resource_read", resource_id=story["service"]["resource_id"], path="Ada")
    same("service", json.loads(answered["text"])["greeting"], "Salut Ada")

    same("configuration", (await call(client, "tenant_configure", **tenant))["mcp_config"], tenant["mcp_config"])
    quotas = (await call(client, "tenant_stats", tenant_id=tenant["tenant_id"]))["quotas"]
    limits = {one["limit"]: one.get("value") for one in quotas}
    same("quota", limits["max_memory_entries"], tenant["mcp_config"]["max_memory_entries"])


async def main(mode, kind, *target):
    ears = Ears()
    async with Client(server(kind, list(target)), mode=mode, message_handler=ears) as client:
        print(client.protocol_version, flush=True)
        await asyncio.wait_for(life(client), 60)
        await asyncio.wait_for(rooms(client, ears), 60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
