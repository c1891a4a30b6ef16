#!/usr/bin/env python3
"""An executor's command: writes a Markdown report from the results of the tasks that this one depends on."""

import json
import sys


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def main():
    task = json.load(sys.stdin)
    results, data = task["dependency_results"], task["task_data"]
    lines, functions = results[data["lines"]], results[data["functions"]]
    print(json.dumps({"progress": 50, "current_step": "writing"}), flush=True)
    text = "\n\n".join([
        f"{sum(row['lines'] for row in lines)} lines in {sum(row['files'] for row in lines)} files.",
        table(["Language", "Files", "Lines"], [(row["language"], row["files"], row["lines"]) for row in lines]),
        "The ten longest functions:",
        table(["Function", "Lines", "Where"], [(f"`{row['name']}`", row["lines"], row["where"]) for row in functions]),
    ])
    longest = functions[0]
    print(json.dumps({
        "result": text,
        "summary": "two results became one report",
        "next_steps": [f"look at {longest['name']}, the longest function"],
    }))


main()
