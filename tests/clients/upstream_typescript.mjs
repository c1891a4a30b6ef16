// An MCP server of the official TypeScript SDK (1.x), over pipes, for Baton to use the tools of.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.BATON_TEST_NPM}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/${name}`)));
const { Server } = await load("server/index.js");
const { StdioServerTransport } = await load("server/stdio.js");
const { CallToolRequestSchema, ListToolsRequestSchema } = await load("types.js");

const number = { type: "integer" };
const tools = [
  {
    name: "add",
    description: "Add two numbers.",
    inputSchema: { type: "object", properties: { a: number, b: number }, required: ["a", "b"] },
    outputSchema: { type: "object", properties: { result: number }, required: ["result"] },
  },
  { name: "refuse", description: "Refuse, whatever is asked.", inputSchema: { type: "object", properties: { why: { type: "string" } } } },
];
const server = new Server({ name: "sums", version: "1.0.0" }, { capabilities: { tools: {} } });
server.setRequestHandler(ListToolsRequestSchema, async () => ({ tools }));
server.setRequestHandler(CallToolRequestSchema, async ({ params: { name, arguments: given } }) => {
  if (name === "add") {
    const result = given.a + given.b;
    return { content: [{ type: "text", text: `${result}` }], structuredContent: { result } };
  }
  return { isError: true, content: [{ type: "text", text: `not today: ${given.why}` }] };
});
await server.connect(new StdioServerTransport());
