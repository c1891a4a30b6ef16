"""One life of a task through the official Python SDK: python_sdk.py MODE KIND TARGET...

MODE is what the client negotiates (legacy, auto, 2026-07-28); KIND is stdio (a command follows), http or sse (a URL follows).
Prints the negotiated protocol version; any broken promise raises.
"""

import asyncio
import json
import pathlib
import sys
import uuid

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


async def main(mode, kind, *target):
    async with Client(server(kind, list(target)), mode=mode) as client:
        print(client.protocol_version, flush=True)
        await asyncio.wait_for(life(client), 60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
