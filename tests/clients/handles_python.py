"""A long call through the official Python SDK, which has no Tasks of its own: handles_python.py URL answer|cancel ARGUMENTS

The extension is added as the SDK lets a program add one. Prints the result, or the status of what was cancelled.
"""

import asyncio
import json
import sys
from typing import ClassVar, Literal

import anyio
import mcp_types as types
from mcp import Client
from mcp.client.extension import ClientExtension, ResultClaim
from pydantic import ConfigDict


class Handle(types.Result):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    result_type: Literal["task"] = "task"
    taskId: str
    status: str
    pollIntervalMs: int


class State(types.Result):
    model_config = ConfigDict(extra="allow")


class Params(types.RequestParams):
    model_config = ConfigDict(extra="allow")
    taskId: str


class Get(types.Request[Params, Literal["tasks/get"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: Params


class Update(types.Request[Params, Literal["tasks/update"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: Params


class Cancel(types.Request[Params, Literal["tasks/cancel"]]):
    name_param: ClassVar[str | None] = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: Params


class Tasks(ClientExtension):
    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, how):
        self.how = how
        self.cancelled = False
        self.keys = []

    def claims(self):
        return (ResultClaim(result_type="task", model=Handle, resolve=self.follow),)

    async def follow(self, handle, context):
        async def ask(kind, **params):
            answer = await context.session.send_request(kind(params=Params(taskId=handle.taskId, **params)), State)
            return answer.model_dump(by_alias=True, mode="json")

        assert handle.status == "working", handle
        if self.how == "cancel":
            await ask(Cancel)
        while True:
            task = await ask(Get)
            if task["status"] == "completed":
                assert len(self.keys) == 1, self.keys
                return types.CallToolResult.model_validate(task["result"])
            if task["status"] == "cancelled":
                self.cancelled = True
                return types.CallToolResult(content=[], is_error=True)
            for key, request in task.get("inputRequests", {}).items():
                if key not in self.keys:
                    self.keys.append(key)
                    await ask(Update, inputResponses={key: self.answer(request)})
            await anyio.sleep(handle.pollIntervalMs / 1000)

    @staticmethod
    def answer(request):
        assert request["method"] == "elicitation/create", request
        choices = request["params"]["requestedSchema"]["properties"]["answer"]["enum"]
        assert choices == ["left", "right"], choices
        return {"action": "accept", "content": {"answer": choices[1]}}


async def elicit(_context, params):
    raise AssertionError(f"asked outside of a task: {params}")


async def main(url, how, arguments):
    tasks = Tasks(how)
    async with Client(url, mode="2026-07-28", extensions=[tasks], elicitation_callback=elicit) as client:
        result = await asyncio.wait_for(client.call_tool("task_run", json.loads(arguments)), 60)
    if tasks.cancelled:
        print(json.dumps({"status": "cancelled"}))
    else:
        print(json.dumps({"structuredContent": result.structured_content}))


asyncio.run(main(*sys.argv[1:]))
