// One life of a task through @modelcontextprotocol/sdk 1: typescript_v1.mjs legacy KIND TARGET...
// It speaks the legacy era alone; KIND is stdio (a command follows), http or sse (a URL follows).
// The SDK comes from the node_modules of the folder in BATON_TEST_NPM. Prints the negotiated protocol version.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { ears, life, rooms } from "./story.mjs";

const { resolve } = createRequire(`${process.env.BATON_TEST_NPM}/package.json`);
const load = (name) => import(pathToFileURL(resolve(`@modelcontextprotocol/sdk/client/${name}.js`)));
const { Client } = await load("index");
const { StdioClientTransport } = await load("stdio");
const { StreamableHTTPClientTransport } = await load("streamableHttp");
const { SSEClientTransport } = await load("sse");

const [, kind, target, ...args] = process.argv.slice(2);
const transports = {
  stdio: () => new StdioClientTransport({ command: target, args }),
  http: () => new StreamableHTTPClientTransport(new URL(target)),
  sse: () => new SSEClientTransport(new URL(target)),
};
const transport = transports[kind]();
// The SDK tells its transport the negotiated version and offers no getter.
let version;
transport.setProtocolVersion = ((inner) => (negotiated) => {
  version = negotiated;
  inner?.call(transport, negotiated);
})(transport.setProtocolVersion);
const client = new Client({ name: "typescript-v1", version: "1" });
const heard = ears(client);
await client.connect(transport);
console.log(version);
await life(client, "typescript-v1");
await rooms(client, "typescript-v1", heard, async (uri) => void (await client.subscribeResource({ uri })));
await client.close();
