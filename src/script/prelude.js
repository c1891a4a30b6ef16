// What a script finds besides the language. All that it says leaves by `say`, all that it hears comes by `settle`.
(say) => {
  "use strict";
  const { parse, stringify } = JSON;
  const { freeze } = Object;
  const open = new Map();
  let last = 0;

  const ask = (what, input = {}) =>
    new Promise((resolve, reject) => {
      const id = (last += 1);
      say("ask", stringify({ id, what, input }));
      open.set(id, { resolve, reject });
    });

  const settle = (id, isGood, text) => {
    const { resolve, reject } = open.get(id);
    open.delete(id);
    const value = parse(text);
    if (isGood) return resolve(value);
    const error = new Error(value.message);
    error.code = value.code;
    reject(error);
  };

  const fetch = async (url, { method = "GET", headers = {}, body } = {}) => {
    const sent = body === undefined || typeof body === "string" ? body : stringify(body);
    const answer = await ask("fetch", { url: `${url}`, method, headers, body: sent });
    return freeze({
      ...answer,
      ok: answer.status >= 200 && answer.status < 300,
      text: async () => answer.body,
      json: async () => parse(answer.body),
    });
  };

  const group = (prefix, names) =>
    freeze(Object.fromEntries(names.map((name) => [name, (input) => ask(`${prefix}_${name}`, input)])));

  const baton = freeze({
    fetch,
    // A mark in the place of a secret: the server puts the secret there, in a header or a body, when the call leaves.
    secret: (name) => `\ue000${name}\ue001`,
    memory: group("memory", ["search", "get", "list", "write", "forget"]),
    task: group("task", ["dispatch", "get", "list", "update", "cancel"]),
    resources: freeze({
      list: (options) => ask("resource_list", options),
      read: (resource_id, path, options) => ask("resource_read", { ...options, resource_id, path }),
      write: (resource_id, path, what) =>
        ask("resource_write", { ...(typeof what === "string" ? { text: what } : what), resource_id, path }),
      query: (resource_id, sql, parameters, options) => ask("resource_query", { ...options, resource_id, sql, parameters }),
    }),
  });

  const shown = (value) => {
    if (typeof value === "string") return value;
    try {
      return stringify(value) ?? `${value}`;
    } catch {
      return String(value);
    }
  };
  const log = (level) => (...values) => say("log", stringify({ level, text: values.map(shown).join(" ") }));
  const levels = { debug: "debug", log: "info", info: "info", warn: "warning", error: "error" };
  globalThis.console = freeze(Object.fromEntries(Object.entries(levels).map(([name, level]) => [name, log(level)])));

  const start = async (main, text) => say("done", stringify(await main(parse(text), baton)) ?? "null");
  return { start, settle };
};
