// A user's way in through @modelcontextprotocol/client 2: oauth_typescript.mjs URL CALLBACK [DOCUMENT]; `oauth.py` is the user and his browser.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { life } from "./story.mjs";

const { resolve } = createRequire(`${process.env.BATON_TEST_NPM}/package.json`);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = await import(pathToFileURL(resolve("@modelcontextprotocol/client")));

const [target, callback, document] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (what) => console.log(JSON.stringify(what));
const ask = async (what) => (say(what), (await lines.next()).value);

const kept = {};
const provider = {
  redirectUrl: callback,
  clientMetadata: { client_name: "typescript-v2", redirect_uris: [callback], token_endpoint_auth_method: "none" },
  clientMetadataUrl: document,
  state: () => (kept.state = randomUUID()),
  clientInformation: () => kept.client,
  saveClientInformation: (client) => void (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => void (kept.tokens = tokens),
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  discoveryState: () => kept.discovery,
  saveDiscoveryState: (discovery) => void (kept.discovery = discovery),
  redirectToAuthorization: async (url) => void (kept.back = await ask({ open: String(url) })),
};

// This SDK leaves it to its user to come back with what the browser brought, and to try again.
async function allowed(transport, attempt) {
  try {
    return await attempt();
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
    const back = new URL(kept.back).searchParams;
    assert.equal(back.get("state"), kept.state);
    await transport.finishAuth(back);
    return null;
  }
}

async function connect() {
  const transport = new StreamableHTTPClientTransport(new URL(target), { authProvider: provider });
  const client = new Client({ name: "typescript-v2", version: "1" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
  const connected = await allowed(transport, async () => (await client.connect(transport), true));
  return { client, transport, connected };
}

assert.equal((await connect()).connected, null, "a stranger came in");
const { client, transport } = await connect();
const names = async () => (await client.listTools()).tools.map((tool) => tool.name);
const before = await names();
const claim = () => client.callTool({ name: "task_claim", arguments: { agent_id: "nobody", capabilities: ["none"] } });
assert.equal(await allowed(transport, claim), null, "a tool was had that the user had not allowed");
assert.deepEqual((await claim()).structuredContent.tasks, []);
await ask({ rest: true });
await life(client, "typescript-v2");
const after = await names();
await client.close();
say({ before, after });
process.exit(0);
