#!/usr/bin/env python3
"""An orchestrator: has this repository measured and a report written, and prints it. Needs the official SDK: pip install mcp

  report.py stdio BATON [ARGUMENT…]     starts `BATON ARGUMENT…`, such as: report.py stdio baton stdio
  report.py http http://127.0.0.1:5050/mcp
  report.py sse http://127.0.0.1:5050/sse

It dispatches three tasks, the third of which waits for the other two, and leaves the work to executors:

  baton work --capabilities survey --concurrency 2 --exec 'python3 examples/survey.py'
  baton work --capabilities write --exec 'python3 examples/write.py'
"""

import asyncio
import sys
import uuid

from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

PATIENCE = 120


def connect(kind, target):
    if kind == "stdio":
        return StdioServerParameters(command=target[0], args=target[1:])
    return sse_client(target[0]) if kind == "sse" else target[0]


async def call(client, tool, **arguments):
    answer = await client.call_tool(tool, arguments)
    if answer.is_error:
        raise SystemExit(f"{tool}: {answer.content[0].text}")
    return answer.structured_content


async def dispatch(client):
    """Three tasks; their ids are this job's own, so that a repeated call would not make them twice."""
    job = f"report-{uuid.uuid4().hex[:8]}"
    lines, functions, report = f"{job}-lines", f"{job}-functions", f"{job}-text"
    for task_id, measure in [(lines, "lines"), (functions, "functions")]:
        await call(
            client, "task_dispatch", task_id=task_id, task_type="analysis", required_capabilities=["survey"],
            description=f"Measure the {measure} of this repository", task_data={"path": ".", "measure": measure},
        )
    await call(
        client, "task_dispatch", task_id=report, task_type="documentation", required_capabilities=["write"],
        title="What is in this repository", description="Write a report from the two measurements",
        depends_on=[lines, functions], task_data={"lines": lines, "functions": functions},
    )
    return report


async def main(kind, target):
    async def show(progress, total, message):
        print(f"  {progress:.0f} %  {message or ''}", file=sys.stderr)

    async with Client(connect(kind, target)) as client:
        report = await dispatch(client)
        async with asyncio.timeout(PATIENCE):
            done = False
            while not done:
                # The server answers as soon as the task has ended; until then this costs no further call.
                waiting = {"task_ids": [report], "wait_seconds": 30}
                answer = await client.call_tool("task_wait", waiting, progress_callback=show)
                if answer.is_error:
                    raise SystemExit(answer.content[0].text)
                done = answer.structured_content["done"]
        read = await client.read_resource(f"baton://tasks/{report}/report")
        print(read.contents[0].text)


asyncio.run(main(sys.argv[1], sys.argv[2:]))
