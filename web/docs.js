"use strict";

const DEPTH = 4;

/* ---- Small tools ---- */

/** Makes an element. Texts are always set as text, never as markup. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false && child !== ""));
  return element;
}

/** A sentence in which code stands between backticks, and operations are named. */
function prose(text) {
  return String(text).split(/(`[^`]+`|\b[a-z]+(?:_[a-z]+)+\b)/).map((part) => {
    if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
    return operations.has(part) ? make("a", { href: "#" + part, class: "mono" }, part) : part;
  });
}

function paragraphs(text) {
  return String(text || "").split(/\n\n+/).filter(Boolean).map((text) => make("p", {}, prose(text)));
}

let openapi = null;
const operations = new Set();

/** Follows `#/components/…` references. Null says that a field is absent, which needs no mention. */
function resolve(value) {
  while (value && value.$ref && value.$ref.startsWith("#/")) {
    value = value.$ref.slice(2).split("/").reduce((place, name) => place && place[name], openapi);
  }
  return value ? withoutNull(value) : {};
}

function withoutNull(schema) {
  const { type, enum: choices, anyOf } = schema;
  const kept = { ...schema };
  if (Array.isArray(type) && type.includes("null")) {
    const kinds = type.filter((kind) => kind !== "null");
    kept.type = kinds.length === 1 ? kinds[0] : kinds;
  }
  if (choices) kept.enum = choices.filter((choice) => choice !== null);
  if (anyOf) kept.anyOf = anyOf.filter((choice) => choice.type !== "null");
  return kept;
}

/** The published schema that a body must satisfy, by name. */
function payloadOf(operation) {
  const parts = ((bodyOf(operation) || {}).schema || {}).allOf || [];
  const named = parts.find((part) => part.$ref);
  return named && named.$ref.split("/").pop();
}

/* ---- Schemas ---- */

function kindOf(schema) {
  schema = resolve(schema);
  const choices = schema.anyOf || schema.oneOf;
  if (choices && !schema.type) return [...new Set(choices.map(kindOf))].join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  if (schema.type === "array") return "array of " + kindOf(schema.items || {});
  if (schema.format === "date-time") return "date-time";
  if (schema.type) return schema.type;
  if (schema.enum) return typeof schema.enum[0];
  return schema.properties ? "object" : "any JSON";
}

function choicesOf(schema) {
  schema = resolve(schema);
  if (schema.enum) return schema.enum;
  if (schema.type === "array" && schema.items) return choicesOf(schema.items);
  const choices = (schema.oneOf || schema.anyOf || []).map(resolve);
  const constants = choices.flatMap((choice) => (choice.const !== undefined ? [choice.const] : choice.enum || []));
  return constants.length && choices.every((choice) => choice.const !== undefined || choice.enum) ? constants : [];
}

function limitsOf(schema) {
  schema = resolve(schema);
  const limits = [];
  const range = (low, high, unit) => {
    if (low !== undefined && high !== undefined) limits.push(low === high ? `${low}${unit}` : `${low} to ${high}${unit}`);
    else if (low !== undefined) limits.push(`at least ${low}${unit}`);
    else if (high !== undefined) limits.push(`at most ${high}${unit}`);
  };
  range(schema.minimum, schema.maximum, "");
  range(schema.minLength, schema.maxLength, " characters");
  range(schema.minItems, schema.maxItems, " items");
  if (schema.pattern) limits.push("matches " + schema.pattern);
  const trivial = schema.default === undefined || JSON.stringify(schema.default) === "[]" || JSON.stringify(schema.default) === "{}";
  if (!trivial) limits.push("default " + JSON.stringify(schema.default));
  return limits.join(", ");
}

/** The object whose fields are worth showing below a field. */
function inner(schema) {
  schema = resolve(schema);
  if (schema.type === "array" && schema.items) return inner(schema.items);
  return schema.properties && Object.keys(schema.properties).length ? schema : null;
}

/**
 * One row per field, nested fields below theirs. `output` says which fields may be absent instead of which must be there;
 * `known` is a schema that describes fields of the same names, for one that does not.
 */
function fieldRows(schema, { place, output, known } = {}, depth = 0) {
  schema = resolve(schema);
  const required = new Set(schema.required || []);
  const names = Object.keys(schema.properties || {});
  const ordered = [...names.filter((name) => required.has(name)), ...names.filter((name) => !required.has(name))];
  return ordered.flatMap((name) => {
    const other = known && resolve((inner(known) || {}).properties)[name];
    const field = { description: other && resolve(other).description, ...resolve(schema.properties[name]) };
    const row = fieldRow(name, field, { depth, place, output, required: required.has(name) });
    const below = depth < DEPTH ? inner(field) : null;
    return below ? [row, ...fieldRows(below, { output, known: other }, depth + 1)] : [row];
  });
}

function fieldRow(name, field, { depth = 0, place, output, required }) {
  const choices = choicesOf(field);
  const limits = limitsOf(field);
  return make("tr", {},
    make("td", { class: "name" }, make("div", { class: "field depth-" + depth },
      make("span", { class: "mono" }, name),
      required && !output && make("span", { class: "required" }, "required"),
      !required && output && make("span", { class: "place" }, "if there is one"),
      place && place !== "body" && make("span", { class: "place" }, "in " + place),
      make("span", { class: "kind" }, kindOf(field)))),
    make("td", {},
      field.description && make("p", {}, prose(field.description)),
      limits && make("span", { class: "limits" }, limits),
      choices.length > 0 && make("div", { class: "choices" }, choices.map((choice) => make("code", {}, String(choice))))));
}

function fieldTable(rows) {
  if (!rows.length) return make("p", { class: "none" }, "None.");
  return make("table", {},
    make("thead", {}, make("tr", {}, make("th", {}, "Field"), make("th", {}, "Meaning"))),
    make("tbody", {}, rows));
}

/* ---- Operations ---- */

/** Operations by tool, each with its routes, the canonical one first. */
function gather(document) {
  const tools = new Map();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const name = operation["x-mcp-tool"] || operation.operationId;
      const tool = tools.get(name) || { name, routes: [] };
      const route = { method, path, operation };
      if (operation["x-canonical"]) tool.routes.unshift(route);
      else tool.routes.push(route);
      tools.set(name, tool);
    }
  }
  const order = document["x-operation-order"] || [];
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return [...tools.values()].sort((a, b) => rank(a.name) - rank(b.name));
}

function bodyOf(operation) {
  return ((operation.requestBody || {}).content || {})["application/json"];
}

function inputTable(operation) {
  const rows = (operation.parameters || []).map(resolve)
    .filter((parameter) => parameter.in !== "header")
    .flatMap((parameter) => {
      const field = { ...resolve(parameter.schema), description: parameter.description };
      return [fieldRow(parameter.name, field, { place: parameter.in, required: parameter.required })];
    });
  const body = bodyOf(operation);
  if (body) rows.push(...fieldRows(body.schema, { place: "body" }));
  return fieldTable(rows);
}

function outputTable(operation) {
  const content = (operation.responses["200"] || {}).content || {};
  const schema = (content["application/json"] || {}).schema;
  return fieldTable(schema ? fieldRows(schema, { output: true }) : []);
}

function quoted(text) {
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

function curl(route) {
  const parameters = (route.operation.parameters || []).map(resolve);
  const example = (parameter) => {
    const value = parameter.example;
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  let path = route.path;
  const query = [];
  for (const parameter of parameters) {
    if (parameter.in === "path") {
      const value = parameter.example === undefined ? parameter.name.toUpperCase() : example(parameter);
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    } else if (parameter.in === "query" && parameter.example !== undefined) {
      query.push(`${parameter.name}=${encodeURIComponent(example(parameter))}`);
    }
  }
  const url = location.origin + path + (query.length ? "?" + query.join("&") : "");
  const lines = [];
  const method = route.method.toUpperCase();
  const body = bodyOf(route.operation);
  lines.push(`curl ${method === "GET" || method === "POST" && body ? "" : `-X ${method} `}${query.length ? quoted(url) : url}`);
  if (body) {
    lines.push("-H 'Content-Type: application/json'");
    lines.push("-d " + quoted(JSON.stringify(body.example || {}, null, 2)));
  }
  return lines.join(" \\\n  ");
}

/** The same call as an MCP client sends it. */
function toolCall(tool, route) {
  const fromPath = (route.operation.parameters || []).map(resolve)
    .filter((parameter) => parameter.in !== "header" && parameter.example !== undefined)
    .map((parameter) => [parameter.name, parameter.example]);
  const body = bodyOf(route.operation);
  const input = { ...Object.fromEntries(fromPath), ...((body && body.example) || {}) };
  return JSON.stringify({ method: "tools/call", params: { name: tool.name, arguments: input } }, null, 2);
}

function sample(title, text) {
  const copy = make("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not possible here";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  return make("div", { class: "sample" },
    make("div", { class: "head" }, make("span", {}, title), copy),
    make("pre", {}, make("code", {}, text)));
}

function pathText(path) {
  const parts = path.split(/(\{[^}]+\})/).map((part) => (part.startsWith("{") ? make("i", {}, part) : part));
  return make("span", { class: "path" }, parts);
}

function routeLine(route) {
  const strict = payloadOf(route.operation);
  return make("div", { class: "route" },
    make("span", { class: "method " + route.method }, route.method),
    pathText(route.path),
    strict && make("span", { class: "note" }, "takes the strict payload ", make("a", { href: "#payload-" + strict }, strict)));
}

const EFFECTS = { read_only: "changes nothing", additive: "adds", destructive: "changes or ends" };

function operationSection(tool) {
  const { operation } = tool.routes[0];
  const fact = (label, value) => value !== undefined && make("span", { class: "fact" }, label, make("b", {}, value));
  const isTool = operation["x-mcp-tool"] !== undefined;
  const facts = make("div", { class: "facts" },
    isTool && fact("MCP tool ", tool.name),
    fact("permission ", operation["x-permission"]),
    isTool && fact("limited as ", operation["x-rate-classes"].join(", ")),
    isTool && make("span", { class: "fact" }, EFFECTS[operation["x-effect"]] || operation["x-effect"]),
    operation["x-idempotent"] === true && make("span", { class: "fact" }, "safe to repeat"));
  return make("section", { class: "operation", id: tool.name },
    make("h2", {}, make("a", { class: "anchor", href: "#" + tool.name }, operation.summary || tool.name)),
    isTool && facts,
    paragraphs(operation.description),
    make("div", { class: "routes" }, tool.routes.map(routeLine)),
    make("div", { class: "columns" },
      make("div", {},
        make("h3", {}, "Input"), inputTable(operation),
        make("details", {}, make("summary", {}, "Output"), outputTable(operation))),
      make("div", { class: "aside" },
        sample("Request", curl(tool.routes[0])),
        isTool && sample("The same over MCP", toolCall(tool, tool.routes[0])))));
}

/* ---- The page ---- */

function payloadsSection(document, tools) {
  const { Problem, ...payloads } = document.components.schemas;
  const takes = (name) => (route) => payloadOf(route.operation) === name;
  const table = (name, schema) => {
    const tool = tools.find((tool) => tool.routes.some(takes(name)));
    return fieldTable(fieldRows(schema, { known: tool && bodyOf(tool.routes[0].operation).schema }));
  };
  return make("section", { class: "operation", id: "payloads" },
    make("h2", {}, "Strict payloads"),
    make("p", {}, "Some paths take a published schema whole: what the operation itself would default is required there. Unknown fields are refused."),
    Object.entries(payloads).map(([name, schema]) => make("details", { id: "payload-" + name },
      make("summary", {}, make("code", {}, name), schema.description && make("span", { class: "about" }, schema.description)),
      table(name, schema))));
}

function errorsSection(document) {
  const rows = document["x-error-codes"].map(({ code, status, meaning }) => make("tr", { id: "error-" + code },
    make("td", {}, make("code", {}, code)), make("td", {}, String(status)), make("td", {}, prose(meaning))));
  const example = {
    type: "/docs#error-invalid_input", title: "Bad Request", status: 400, code: "invalid_input",
    detail: "the input is not valid: /priority: \"now\" is not one of …",
    details: [{ path: "/priority", message: "\"now\" is not one of …" }],
  };
  return make("section", { class: "operation", id: "errors" },
    make("h2", {}, "Errors"),
    paragraphs("An error is `application/problem+json` (RFC 9457). `code` is stable and for programs; `detail` says what happened and what to do; `details` lists what is wrong with which place of the input, as JSON Pointers; `retry_after_seconds` says when the same call may succeed."),
    sample("An error", JSON.stringify(example, null, 2)),
    make("table", {},
      make("thead", {}, make("tr", {}, make("th", {}, "Code"), make("th", {}, "Status"), make("th", {}, "Meaning"))),
      make("tbody", {}, rows)));
}

function contents(groups) {
  const link = (id, ...label) => make("li", { "data-for": id }, make("a", { href: "#" + id }, ...label));
  const group = (title, items) => [make("h2", {}, title), make("ul", {}, items)];
  return [
    group("Guide", [link("overview", "Overview"), link("payloads", "Strict payloads"), link("errors", "Errors")]),
    [...groups].map(([name, tools]) => group(name, tools.map((tool) => link(tool.name,
      make("span", { class: "method " + tool.routes[0].method }, tool.routes[0].method), tool.name)))),
  ].flat(3);
}

function filterBy(text, tools) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const tool of tools) {
    const { operation } = tool.routes[0];
    const paths = tool.routes.map((route) => route.method + " " + route.path).join(" ");
    const all = [tool.name, operation.summary, operation.description, paths].join(" ").toLowerCase();
    const hidden = !words.every((word) => all.includes(word));
    document.getElementById(tool.name).hidden = hidden;
    document.querySelector(`nav [data-for="${tool.name}"]`).hidden = hidden;
  }
}

/** Marks the section being read in the contents. */
function follow() {
  const links = new Map([...document.querySelectorAll("nav li")].map((item) => [item.dataset.for, item.firstChild]));
  const sections = [...document.querySelectorAll("main > section")];
  let scheduled = false;
  const mark = () => {
    scheduled = false;
    const visible = sections.filter((section) => !section.hidden);
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const here = atEnd && scrollY > 0 ? visible.at(-1)
      : visible.filter((section) => section.getBoundingClientRect().top < 140).at(-1) || visible[0];
    links.forEach((link, id) => link.classList.toggle("here", here !== undefined && id === here.id));
  };
  addEventListener("scroll", () => {
    if (!scheduled) requestAnimationFrame(mark);
    scheduled = true;
  }, { passive: true });
  mark();
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function startTheme() {
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("baton-theme"); } catch { /* Storage may be switched off. */ }
  showTheme(chosen || (wanted.matches ? "dark" : "light"));
  wanted.addEventListener("change", () => { if (!chosen) showTheme(wanted.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("baton-theme", chosen); } catch { /* Then it holds for this page. */ }
    showTheme(chosen);
  });
}

function jump() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  // The row did not exist when the browser looked for it, so :target needs the hash set again.
  location.replace(location.hash);
  target.scrollIntoView({ behavior: "instant" });
}

async function start() {
  startTheme();
  const main = document.getElementById("main");
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error("the server answered " + response.status);
    openapi = await response.json();
  } catch (error) {
    main.append(make("p", { class: "failure" }, "The description of the API could not be loaded: " + error.message));
    return;
  }
  document.getElementById("version").textContent = openapi.info.version;
  document.getElementById("summary").textContent = openapi.info.summary || "";
  const tools = gather(openapi);
  tools.forEach((tool) => operations.add(tool.name));
  const groups = new Map();
  for (const tool of tools) {
    const name = (tool.routes[0].operation.tags || ["other"])[0];
    groups.set(name, [...(groups.get(name) || []), tool]);
  }
  document.getElementById("about").append(...paragraphs(openapi.info.description));
  main.append(...[...groups.values()].flat().map(operationSection), payloadsSection(openapi, tools), errorsSection(openapi));
  document.getElementById("contents").append(...contents(groups));
  document.getElementById("filter").addEventListener("input", (event) => filterBy(event.target.value, tools));
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  });
  follow();
  jump();
}

start();
