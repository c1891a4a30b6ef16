// One life of a task and one visit to the tenant's rooms, told once for both TypeScript SDKs; each hands in a connected client.

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

/** What a client hears, each once: `await heard(method, uri)`. Set up before it connects. */
export function ears(client) {
  const [notes, waiting] = [[], new Set()];
  client.fallbackNotificationHandler = async (note) => {
    notes.push(note);
    for (const look of waiting) look();
  };
  return (method, uri) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${method} ${uri ?? ""} was never heard: ${JSON.stringify(notes)}`)), 20_000);
      const look = () => {
        const at = notes.findIndex((note) => note.method === method && (uri === undefined || note.params.uri === uri));
        if (at < 0) return;
        notes.splice(at, 1);
        waiting.delete(look);
        clearTimeout(late);
        resolve();
      };
      waiting.add(look);
      look();
    });
}

/** Memory, secrets, tools, resources and tenants. `listen(uri)` makes the client hear of lists of tools and of a resource. */
export async function rooms(client, agent, heard, listen) {
  const mark = randomUUID().replaceAll("-", "").slice(0, 12);
  const marked = JSON.stringify(story.rooms).replaceAll("MARK", mark).replaceAll("OUTSIDE", process.env.BATON_TEST_OUTSIDE);
  const { memory, secret, tool, changed, folder, file, service, tenant } = JSON.parse(marked);
  const uri = `baton://resources/${folder.resource_id}/${file.path}`;
  const stop = await listen(uri);

  const { query, ...entry } = memory;
  const kept = await call(client, "memory_write", { agent_id: agent, ...entry });
  const [hit] = (await call(client, "memory_search", { query })).hits;
  assert.deepEqual([hit.memory_id, hit.content], [kept.memory_id, memory.content]);
  assert((await read(client, `baton://memory/${agent}/${kept.memory_id}`)).includes(memory.content));

  const name = tool.implementation.auth.secret;
  await call(client, "secret_set", { name, value: secret });
  const secrets = await call(client, "secret_list", {});
  assert(secrets.secrets.some((one) => one.name === name) && !JSON.stringify(secrets).includes(secret));

  const lists = async () => (await client.listTools()).tools.some((one) => one.name === tool.name);
  const { tool_id } = await call(client, "tool_create", tool);
  await heard("notifications/tools/list_changed");
  assert(await lists(), "tools/list lacks a tool that was made");
  assert.deepEqual(await call(client, tool.name, { name: "Ada" }), { greeting: "Hello Ada", trusted: true });
  await call(client, "tool_update", { tool_id, manifest: { implementation: changed } });
  await heard("notifications/tools/list_changed");
  assert.deepEqual(await call(client, tool.name, { name: "Ada" }), { greeting: "Hola Ada", trusted: true });
  await call(client, "tool_delete", { tool_id });
  await heard("notifications/tools/list_changed");
  assert(!(await lists()), "tools/list has a tool that was deleted");

  await call(client, "resource_register", folder);
  await call(client, "resource_write", { resource_id: folder.resource_id, ...file });
  await heard("notifications/resources/updated", uri);
  assert.equal(await read(client, uri), file.text);
  await call(client, "resource_register", service);
  const answered = await call(client, "resource_read", { resource_id: service.resource_id, path: "Ada" });
  assert.equal(JSON.parse(answered.text).greeting, "Salut Ada");
  await stop?.();

  const configured = await call(client, "tenant_configure", tenant);
  assert.deepEqual(configured.mcp_config, tenant.mcp_config);
  const { quotas } = await call(client, "tenant_stats", { tenant_id: tenant.tenant_id });
  assert.equal(quotas.find((one) => one.limit === "max_memory_entries").value, tenant.mcp_config.max_memory_entries);
}
