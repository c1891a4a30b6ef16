// One life of a task through @modelcontextprotocol/client 2: typescript_v2.mjs MODE KIND TARGET...
// MODE is what the client negotiates (legacy, auto, 2026-07-28); KIND is stdio (a command follows), http or sse (a URL follows).
// The SDK comes from the node_modules of the folder in BATON_TEST_NPM. Prints the negotiated protocol version.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { ears, life, rooms } from "./story.mjs";

const { resolve } = createRequire(`${process.env.BATON_TEST_NPM}/package.json`);
const load = (name) => import(pathToFileURL(resolve(name)));
const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
const { StdioClientTransport } = await load("@modelcontextprotocol/client/stdio");

const [mode, kind, target, ...args] = process.argv.slice(2);
const transports = {
  stdio: () => new StdioClientTransport({ command: target, args }),
  http: () => new StreamableHTTPClientTransport(new URL(target)),
  sse: () => new SSEClientTransport(new URL(target)),
};
const wanted = ["legacy", "auto"].includes(mode) ? mode : { pin: mode };
const client = new Client({ name: "typescript-v2", version: "1" }, { versionNegotiation: { mode: wanted } });
const heard = ears(client);
await client.connect(transports[kind]());
const version = client.getNegotiatedProtocolVersion();
console.log(version);
await life(client, "typescript-v2");
await rooms(client, "typescript-v2", heard, async (uri) => {
  if (version < "2026") return void (await client.subscribeResource({ uri }));
  const listening = await client.listen({ toolsListChanged: true, resourceSubscriptions: [uri] });
  return () => listening.close();
});
await client.close();
