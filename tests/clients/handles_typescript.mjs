// A long call through @modelcontextprotocol/client 2 and @modelcontextprotocol/ext-tasks: handles_typescript.mjs URL answer|cancel ARGUMENTS
// The package follows the handle; this hands in what it asks of a host: a way to send its requests, and answers to forms.
// Prints the result, or the status of what was cancelled.

import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { createRequire } from "node:module";

const { resolve } = createRequire(`${process.env.BATON_TEST_NPM}/package.json`);
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(resolve("@modelcontextprotocol/client")));
const tasks = `${process.env.BATON_TEST_NPM}/node_modules/@modelcontextprotocol/ext-tasks/dist/client/index.js`;
const { createTaskSessionFromClient, resultFromTaskOutcome } = await import(pathToFileURL(tasks));

const [url, how, args] = process.argv.slice(2);
const clientInfo = { name: "typescript-tasks", version: "1" };
const framing = {
  protocolVersion: "2026-07-28",
  clientInfo,
  clientCapabilities: { elicitation: {}, extensions: { "io.modelcontextprotocol/tasks": {} } },
};

let id = 0;
async function dispatch(request) {
  const { method, params } = request;
  const headers = {
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
    "mcp-protocol-version": framing.protocolVersion,
    "mcp-method": method,
    "mcp-name": params.taskId ?? params.name,
  };
  id += 1;
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify({ jsonrpc: "2.0", id, method, params }) });
  const message = await response.json();
  return message.error ? { kind: "error", error: message.error } : { kind: "result", result: message.result };
}

let asked = 0;
async function onInputRequest(request) {
  assert.equal(request.kind, "elicitation");
  const choices = request.params.requestedSchema.properties.answer.enum;
  assert.deepEqual(choices, ["left", "right"]);
  asked += 1;
  return { action: "accept", content: { answer: choices[1] } };
}

const client = new Client(clientInfo, { versionNegotiation: { mode: { pin: framing.protocolVersion } } });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const session = createTaskSessionFromClient(client, {
  endpointId: "baton",
  rawDispatch: dispatch,
  v2RequestFraming: framing,
  onInputRequest,
});
const execution = await session.callTool("task_run", JSON.parse(args));
assert.equal(execution.kind, "task");
if (how === "cancel") await execution.cancel();
const { outcome } = await execution.settle();
if (outcome.status === "cancelled") {
  console.log(JSON.stringify({ status: "cancelled" }));
} else {
  assert.equal(asked, 1);
  console.log(JSON.stringify({ structuredContent: resultFromTaskOutcome(outcome).structuredContent }));
}
await session.close();
await client.close();
