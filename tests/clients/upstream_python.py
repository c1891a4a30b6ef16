"""An MCP server of the official Python SDK, for Baton to use the tools of: upstream_python.py stdio | http PORT | sse PORT"""

import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("sums")


@server.tool()
async def add(a: int, b: int, context: Context) -> int:
    """Add two numbers."""
    await context.report_progress(1, 2, "half")
    return a + b


@server.tool()
def refuse(why: str) -> str:
    """Refuse, whatever is asked."""
    raise ToolError(f"not today: {why}")


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    server.run({"http": "streamable-http", "sse": "sse"}[sys.argv[1]], port=int(sys.argv[2]))
