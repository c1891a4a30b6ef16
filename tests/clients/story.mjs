// One life of a task, told once for both TypeScript SDKs; each hands in a connected client.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

const story = JSON.parse(readFileSync(new URL("story.json", import.meta.url)));

async function call(client, name, args) {
  const result = await client.callTool({ name, arguments: args });
  const text = result.content.map((block) => block.text ?? "").join("");
  assert(!result.isError, `${name} was refused: ${text}`);
  assert(text, `${name} answered without text for clients that ignore structured content`);
  return result.structuredContent;
}

async function read(client, uri) {
  const { contents } = await client.readResource({ uri });
  assert.deepEqual(contents.map((content) => content.uri), [uri]);
  return contents[0].text;
}

export async function life(client, agent) {
  const listed = (await client.listTools()).tools.map((tool) => tool.name);
  const missing = story.tools.filter((name) => !listed.includes(name));
  assert.deepEqual(missing, [], "tools/list lacks some");

  // A capability of its own keeps this life apart from the others on the same server.
  const capability = `cap-${randomUUID()}`;
  const sent = await call(client, "task_dispatch", { ...story.dispatch, required_capabilities: [capability] });
  assert.equal(sent.state, "pending");
  const { task_id } = sent;

  const { tasks } = await call(client, "task_claim", { agent_id: agent, capabilities: [capability], max_tasks: 5 });
  assert.deepEqual(tasks.map((task) => task.task_id), [task_id]);
  assert.deepEqual(tasks[0].task_data, story.dispatch.task_data);
  assert.equal(tasks[0].attempt, 1);

  const mine = { task_id, agent_id: agent, lease_token: tasks[0].lease.token };
  await call(client, "task_notify", { ...mine, notification_type: "started", data: {} });
  await call(client, "task_notify", { ...mine, notification_type: "progress", data: story.progress });
  assert.equal((await call(client, "task_end", { ...mine, ...story.end })).state, "completed");

  const done = await call(client, "task_get", { task_id });
  assert.equal(done.state, "completed");
  assert.deepEqual(done.result, story.end.result);
  const told = done.notifications.map((one) => one.notification_type.replace(/^task_/, ""));
  assert.deepEqual(told.slice(0, 2), ["started", "progress"]);
  const sequences = done.notifications.map((one) => one.sequence);
  assert.deepEqual(sequences, [...new Set(sequences)].sort((a, b) => a - b));

  const seen = JSON.parse(await read(client, `baton://tasks/${task_id}`));
  assert.equal(seen.task_id, task_id);
  assert.equal(seen.state, "completed");
  const report = await read(client, `baton://tasks/${task_id}/report`);
  assert(report.includes("counted with wc"), `the report lacks the summary: ${report}`);
}
