"""What schemathesis must know besides the document: things to ask about, how long to wait, and what no schema says.

Loaded by schemathesis (SCHEMATHESIS_HOOKS). At the end of a run the statuses of each operation are in BATON_TEST_STATUSES.
"""

import atexit
import collections
import fnmatch
import itertools
import json
import os
import urllib.error
import urllib.request

import schemathesis

# Refusals of requests that satisfy the schema, by code: each says what is wrong in its own way.
NAMED = {
    "address_refused": "where calls lead is for the operator to say",
    "invalid_cursor": "a cursor is what an earlier answer gave",
}
# The same of `invalid_input`, by operation and place: what no schema can say, or none that all hosts of MCP read.
UNSAID = {
    "limits_set": {"/scope": "some limits hold for the server alone", "/value": "some limits can't be none"},
    "memory_write": {"/expires_at": "a moment to come", "/task_id": "a task that is there", "/supersedes*": "an entry that is there"},
    "resource_query": {"/sql": "one statement that the database takes", "/parameters*": "as many as it has places for", "/resource_id": "a database"},
    "resource_read": {"/path": "a path's parts are bounded each"},
    "resource_register": {"/uri": "a folder that is open, or a URL", "/metadata*": "of a service, how it is called"},
    "resource_write": {"": "one of text, blob and remove", "/path": "a path's parts are bounded each", "/blob": "base64"},
    "task_claim": {"/max_concurrent_tasks": "how many the server allows"},
    "task_dispatch": {"/parent_task_id": "a task that is there", "/depends_on*": "tasks that are there", "/result_schema*": "a JSON Schema"},
    "task_run": {"/parent_task_id": "a task that is there", "/depends_on*": "tasks that are there", "/result_schema*": "a JSON Schema"},
    "tool_create": {"/*": "a manifest: docs/TOOLS.md"},
    "tool_import_openapi": {"/url": "a URL or a document", "/server": "where the document does not say", "/document*": "OpenAPI 3", "/auth*": "a secret and its place"},
    "tool_test": {"/*": "a tool or a manifest: docs/TOOLS.md"},
    "tool_update": {"/*": "a manifest: docs/TOOLS.md"},
}
SCRIPT = {"type": "script", "source": "function main({city}) { return {city}; }"}
numbers = itertools.count(1)
statuses = collections.defaultdict(collections.Counter)


def operation(case):
    return case.operation.definition.raw.get("x-mcp-tool", case.operation.label)


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


class Tenant:
    """Makes what a case asks about, in the case's tenant."""

    def __init__(self, url, name):
        self.url, self.name = url, name

    def call(self, method, route, **body):
        headers = {"content-type": "application/json", "x-tenant-id": self.name}
        request = urllib.request.Request(f"{self.url}/api/v1/{route}", json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {route} {body}: {refused.code} {refused.read()}") from refused

    def task(self):
        return {"task_id": self.call("POST", "tasks", description="Count the lines")["task_id"]}

    def cancelled(self):
        task = self.task()
        self.call("POST", f"tasks/{task['task_id']}/cancel", confirm=True)
        return task

    def leased(self):
        agent = f"agent-{next(numbers)}"
        self.task()
        # Which of those that wait does not matter.
        (task,) = self.call("POST", "claims", agent_id=agent)["tasks"]
        return {"task_id": task["task_id"], "agent_id": agent, "lease_token": task["lease"]["token"]}

    def beating(self):
        held = self.leased()
        return {"agent_id": held.pop("agent_id"), "leases": [held]}

    def escalated(self):
        held = self.leased()
        task_id = held.pop("task_id")
        data = {"reason": "two ways", "question": "Which?"}
        self.call("POST", f"tasks/{task_id}/notifications", **held, notification_type="escalated", data=data)
        return {"task_id": task_id}

    def waited(self):
        return {"task_ids": [self.cancelled()["task_id"]]}

    def memory(self):
        made = self.call("POST", "memory", agent_id="agent-1", content=f"Room {next(numbers)} is booked", scope="shared")
        return {"memory_id": made["memory_id"], "agent_id": "agent-1"}

    def resource(self):
        name = f"docs-{next(numbers)}"
        rights = ["read", "write", "admin", "deploy"]
        self.call("POST", "resources", resource_id=name, type="file_storage", uri=f"file://tenant/{name}", access_permissions=rights)
        self.call("POST", f"resources/{name}/content", path="intro.md", text="Hello")
        return {"resource_id": name}

    def database(self):
        name = f"db-{next(numbers)}"
        self.call("POST", "resources", resource_id=name, type="database", uri=f"file://tenant/{name}.db", access_permissions=["read", "write"])
        self.call("POST", f"resources/{name}/query", sql="CREATE TABLE people (name TEXT, age INTEGER)", write=True)
        return {"resource_id": name, "sql": "SELECT name FROM people", "parameters": []}

    def secret(self):
        self.call("POST", "secrets", name="github_token", value="ghp_example")
        return {"name": "github_token"}

    def key(self):
        return {"key_id": self.call("POST", "keys", name="ci", roles=["observer"])["key_id"]}

    def tool(self):
        name, form = f"weather-{next(numbers)}", {"type": "object", "properties": {"city": {"type": "string"}}}
        made = self.call("POST", "tools", name=name, description="The weather", parameters=form, implementation=SCRIPT)
        return {"tool_id": made["tool_id"], "name": name, "version": 1}

    def called(self):
        return {"name": self.tool()["name"], "arguments": {"city": "Lima"}}


# What each operation needs to find; of it, a case gets the fields that it has.
NEEDS = {
    "key_revoke": Tenant.key, "key_rotate": Tenant.key,
    "memory_forget": Tenant.memory, "memory_get": Tenant.memory,
    "resource_query": Tenant.database,
    "resource_delete": Tenant.resource, "resource_get": Tenant.resource, "resource_read": Tenant.resource, "resource_write": Tenant.resource,
    "secret_delete": Tenant.secret,
    "task_answer": Tenant.escalated, "task_cancel": Tenant.task, "task_end": Tenant.leased, "task_get": Tenant.task,
    "task_heartbeat": Tenant.beating, "task_notify": Tenant.leased, "task_retry": Tenant.cancelled, "task_update": Tenant.task,
    "task_wait": Tenant.waited,
    "tool_approve": Tenant.tool, "tool_call": Tenant.called, "tool_delete": Tenant.tool, "tool_describe": Tenant.tool,
    "tool_history": Tenant.tool, "tool_rollback": Tenant.tool, "tool_test": Tenant.tool, "tool_update": Tenant.tool,
}
# Fields that stand in for each other: a case that has one of its own keeps it.
CHOICES = {"tool_test": {"manifest"}, "task_wait": set()}


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body if isinstance(case.body, dict) else {}
    # How long a call waits says nothing about its answer.
    if is_positive(case) and body.get("wait_seconds", 50 if operation(case) == "task_run" else 0):
        body["wait_seconds"] = 0
    make = NEEDS.get(operation(case))
    if make is None or not is_positive(case) or body.keys() & CHOICES.get(operation(case), set()):
        return
    tenant = Tenant(os.environ["BATON_TEST_URL"], (case.headers or {}).get("X-Tenant-ID", "default"))
    for name, value in make(tenant).items():
        for place in (case.path_parameters, case.query, body):
            if place and name in place:
                place[name] = value


@schemathesis.hook
def after_call(context, case, response):
    statuses[operation(case)][response.status_code] += 1


@schemathesis.check
def schema_valid_requests_are_refused_for_what_no_schema_says(context, response, case):
    if not is_positive(case) or response.status_code != 400:
        return
    problem = response.json()
    if problem["code"] in NAMED:
        return
    unsaid = UNSAID.get(operation(case), {})
    strange = [found for found in problem.get("details", []) if not any(fnmatch.fnmatch(found["path"], place) for place in unsaid)]
    assert problem["code"] == "invalid_input" and not strange, f"the schema takes this: {problem['detail'][:500]}"


@schemathesis.check
def statuses_are_documented_each(context, response, case):
    documented = case.operation.definition.raw["responses"]
    # Other methods of a path are no operations.
    assert str(response.status_code) in documented or response.status_code == 405, f"{response.status_code} is not among {list(documented)}"


@atexit.register
def tell():
    with open(os.environ["BATON_TEST_STATUSES"], "w", encoding="utf-8") as file:
        json.dump(statuses, file)
