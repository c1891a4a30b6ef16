"""One life of a task through the Inspector's command line, one process a request: inspector.py ERA KIND TARGET...

ERA is legacy, auto or modern; KIND is stdio (a command follows), http or sse (a URL follows), or config (a file and a server name).
Every tools/list is strict: schemas that some host could not take are errors.
INSPECTOR holds the command, node included. Prints the negotiated protocol version.
"""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request
import uuid

STORY = json.loads(pathlib.Path(__file__).with_name("story.json").read_text())
ERA, KIND, *TARGET = sys.argv[1:]


def same(what, got, want):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


def inspect(method, *options):
    command = json.loads(os.environ["INSPECTOR"]) + ["--cli"]
    if KIND == "config":
        command += ["--config", TARGET[0], "--server", TARGET[1]]
    elif KIND == "stdio":
        command += TARGET
    else:
        command += [TARGET[0], "--transport", KIND]
    command += ["--protocol-era", ERA, "--method", method, "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{method} {options}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    answer = json.loads(done.stdout)
    return answer.get("result", answer)


def call(tool, **arguments):
    answer = inspect("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
    return answer["structuredContent"]


def read(uri):
    (content,) = inspect("resources/read", "--uri", uri)["contents"]
    return content["text"]


def main():
    print(inspect("initialize").get("protocolVersion"), flush=True)
    listed = {tool["name"] for tool in inspect("tools/list", "--strict")["tools"]}
    missing = set(STORY["tools"]) - listed
    assert not missing, f"tools/list lacks {sorted(missing)}"

    agent, capability = "inspector", f"cap-{uuid.uuid4().hex}"
    sent = call("task_dispatch", **STORY["dispatch"], required_capabilities=[capability])
    same("state after dispatch", sent["state"], "pending")
    task_id = sent["task_id"]
    (task,) = call("task_claim", agent_id=agent, capabilities=[capability])["tasks"]
    same("claimed task", task["task_id"], task_id)
    mine = {"task_id": task_id, "agent_id": agent, "lease_token": task["lease"]["token"]}
    call("task_notify", **mine, notification_type="progress", data=STORY["progress"])
    same("state after end", call("task_end", **mine, **STORY["end"])["state"], "completed")
    done = call("task_get", task_id=task_id)
    same("task_get", (done["state"], done["result"]), ("completed", STORY["end"]["result"]))
    same("task resource", json.loads(read(f"baton://tasks/{task_id}"))["state"], "completed")
    assert "counted with wc" in read(f"baton://tasks/{task_id}/report"), "the report lacks the summary"

    # Each call is a process of its own, so one transport has to do.
    if KIND == "http":
        rooms(agent)


def administer(route, **body):
    """What administers is in no list that is shown to everybody, and Inspector calls only what is listed."""
    headers = {"content-type": "application/json"}
    url = os.environ["BATON_TEST_SERVER"] + f"/api/v1/{route}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)):
        pass


def rooms(agent):
    """Memory, secrets, tools and resources. What ends with each call hears nothing of what follows."""
    mark = uuid.uuid4().hex[:12]
    story = json.loads(json.dumps(STORY["rooms"]).replace("MARK", mark).replace("OUTSIDE", os.environ["BATON_TEST_OUTSIDE"]))
    query = story["memory"].pop("query")
    kept = call("memory_write", agent_id=agent, **story["memory"])
    same("hit", call("memory_search", query=query)["hits"][0]["memory_id"], kept["memory_id"])
    assert story["memory"]["content"] in read(f"baton://memory/{agent}/{kept['memory_id']}")

    tool, folder, file = story["tool"], story["folder"], story["file"]
    administer("secrets", name=tool["implementation"]["auth"]["secret"], value=story["secret"])
    tool_id = call("tool_create", **tool)["tool_id"]
    assert tool["name"] in [one["name"] for one in inspect("tools/list")["tools"]], "tools/list lacks a tool that was made"
    same("call", call(tool["name"], name="Ada"), {"greeting": "Hello Ada", "trusted": True})
    call("tool_update", tool_id=tool_id, manifest={"implementation": story["changed"]})
    same("call", call(tool["name"], name="Ada"), {"greeting": "Hola Ada", "trusted": True})
    call("tool_delete", tool_id=tool_id)

    call("resource_register", **folder)
    call("resource_write", resource_id=folder["resource_id"], **file)
    same("file", read(f"baton://resources/{folder['resource_id']}/{file['path']}"), file["text"])


main()
