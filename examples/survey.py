#!/usr/bin/env python3
"""An executor's command: measures the source in a folder. `baton work` gives it the task as JSON on standard input.

task_data: {"path": ".", "measure": "lines" | "functions"}. Prints progress as it goes and its result last.
"""

import collections
import json
import pathlib
import re
import sys

LANGUAGES = {
    ".rs": "Rust", ".py": "Python", ".mjs": "JavaScript", ".sql": "SQL", ".md": "Markdown", ".toml": "TOML",
    ".json": "JSON", ".sh": "Shell",
}
SKIPPED = {"target", "node_modules", "__pycache__"}
FUNCTION = re.compile(r"^(?P<indent>\s*)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe )*fn (?P<name>\w+)")


def say(progress, step):
    print(json.dumps({"progress": progress, "current_step": step}), flush=True)


def sources(root):
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part in SKIPPED for part in parts)
        if not hidden and path.suffix in LANGUAGES and path.is_file():
            yield path


def lines(root):
    """Files and lines of each language, the largest first."""
    files, total = collections.Counter(), collections.Counter()
    for path in sources(root):
        language = LANGUAGES[path.suffix]
        files[language] += 1
        total[language] += len(path.read_text(errors="replace").splitlines())
    return [{"language": name, "files": files[name], "lines": count} for name, count in total.most_common()]


def functions(root):
    """The ten longest Rust functions: from `fn` to the brace that closes at the same indentation, as rustfmt writes it."""
    found = []
    for path in sources(root):
        if path.suffix != ".rs":
            continue
        text = path.read_text(errors="replace").splitlines()
        for start, line in enumerate(text):
            if not (match := FUNCTION.match(line)):
                continue
            closing = match["indent"] + "}"
            end = next((at for at in range(start, len(text)) if text[at] == closing), start)
            where = f"{path.relative_to(root)}:{start + 1}"
            found.append({"name": match["name"], "lines": end - start + 1, "where": where})
    return sorted(found, key=lambda function: (-function["lines"], function["where"]))[:10]


def main():
    task = json.load(sys.stdin)
    data = task["task_data"]
    root = pathlib.Path(data["path"])
    say(10, f"reading {root.resolve().name}")
    measured = {"lines": lines, "functions": functions}[data["measure"]](root)
    say(90, f"{len(measured)} rows")
    print(json.dumps({"result": measured, "summary": f"measured {data['measure']} of {len(list(sources(root)))} files"}))


main()
