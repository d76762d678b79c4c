// Owns the page at /docs: shows /openapi.json, in Japanese or English, and sends examples to the server that it came from.
"use strict";

const WORDS = {
  ja: {
    parameters: "パラメーター", request: "送る内容", responses: "応答", example: "例", required: "必須", nullable: "なければ null",
    oneOf: "次のいずれか", list: "{} の配列", tryIt: "試す", send: "送信", body: "本文", type: "形式", answer: "応答",
    unreachable: "サーバーに届きませんでした。", max: "最大", chars: "文字", items: "件まで", define: "定義ファイル",
  },
  en: {
    parameters: "Parameters", request: "Request", responses: "Responses", example: "Example", required: "required", nullable: "or null",
    oneOf: "one of", list: "list of {}", tryIt: "Try it", send: "Send", body: "Body", type: "Type", answer: "Answer",
    unreachable: "The server was not reached.", max: "at most", chars: "characters", items: "items", define: "Definition",
  },
};
const METHODS = ["get", "post", "put"];
let language = "ja";
let api = null;

const word = (key) => WORDS[language][key];
const pick = (text, separator) => {
  const [ja, en] = (text || "").split(separator);
  return language === "ja" || en === undefined ? ja : en;
};

/** An element with attributes and children; text is never taken for markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text in which `...` is code. */
function prose(text, tag = "p", attributes = {}) {
  const parts = (text || "").split("`").map((part, position) => (position % 2 ? make("code", {}, part) : part));
  return make(tag, attributes, ...parts);
}

function resolve(schema) {
  if (!schema || !schema.$ref) return schema || {};
  return api.components.schemas[schema.$ref.split("/").pop()];
}

function shape(schema) {
  const choices = schema.anyOf || schema.oneOf;
  if (!choices) return { schema, nullable: Array.isArray(schema.type) && schema.type.includes("null") };
  const real = choices.filter((choice) => choice.type !== "null");
  const merged = real.length === 1 ? { ...schema, anyOf: undefined, ...real[0] } : schema;
  return { schema: merged, nullable: real.length < choices.length };
}

function typeText(given) {
  const { schema, nullable } = shape(given);
  const suffix = nullable ? ` (${word("nullable")})` : "";
  // A name alone says nothing of the values that there are.
  const named = resolve(schema);
  if (named.enum) return named.enum.map((value) => JSON.stringify(value)).join(" | ") + suffix;
  if (schema.$ref) return schema.$ref.split("/").pop() + suffix;
  if (schema.type === "array" || schema.items) return word("list").replace("{}", typeText(schema.items || {})) + suffix;
  if (schema.anyOf) return schema.anyOf.map(typeText).join(" | ");
  const types = [].concat(schema.type || "any").filter((name) => name !== "null");
  return types.join(" | ") + suffix;
}

function bounds(schema) {
  const found = [];
  if (schema.maxLength) found.push(`${word("max")} ${schema.maxLength} ${word("chars")}`);
  if (schema.maxItems) found.push(`${schema.maxItems} ${word("items")}`);
  if (schema.pattern) found.push(schema.pattern);
  if (schema.default !== undefined && schema.default !== null) found.push(`= ${JSON.stringify(schema.default)}`);
  return found.join(" · ");
}

function member(name, given, required, depth) {
  const { schema } = shape(given);
  const inner = resolve(schema.items ? shape(schema.items).schema : schema);
  const line = make("span", {}, make("span", { class: "name" }, name), " ", make("span", { class: "type" }, typeText(given)));
  if (required) line.append(" ", make("span", { class: "required" }, word("required")));
  const item = make("li", {});
  const note = bounds(schema);
  if (note) line.append(" ", make("span", { class: "note" }, note));
  if (inner.properties && depth < 6) item.append(make("details", {}, make("summary", {}, line), members(inner, depth + 1)));
  else item.append(line);
  const text = schema.description || given.description;
  if (text) item.append(prose(text, "p", { class: "text" }));
  return item;
}

function members(schema, depth = 0) {
  const required = new Set(schema.required || []);
  const list = make("ul", { class: "members" });
  for (const [name, inner] of Object.entries(schema.properties || {})) list.append(member(name, inner, required.has(name), depth));
  return list;
}

function exampleText(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function content(media, open) {
  return Object.entries(media).map(([type, described]) => {
    const { schema } = shape(described.schema || {});
    const top = resolve(schema);
    const box = make("details", open ? { open: "" } : {}, make("summary", {}, make("span", { class: "media" }, type), " ", typeText(described.schema || {})));
    if (top.description) box.append(prose(top.description, "p", { class: "text" }));
    if (top.properties) box.append(members(top));
    for (const [name, example] of Object.entries(described.examples || {})) {
      box.append(make("details", {}, make("summary", {}, `${word("example")}: ${name}`), make("pre", {}, make("code", {}, exampleText(example.value)))));
    }
    return box;
  });
}

function responses(operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    const good = status.startsWith("2");
    const title = make("summary", {}, make("span", { class: `status ${good ? "ok" : "problem"}` }, status), " ", prose(response.description, "span"));
    return make("details", good ? { open: "" } : {}, title, ...content(response.content || {}, false));
  });
}

/** A form that sends the operation's example to this server. */
function tryOut(path, method, operation) {
  const media = (operation.requestBody || {}).content || {};
  const type = make("select", { "aria-label": word("type") }, ...Object.keys(media).map((name) => make("option", {}, name)));
  const body = make("textarea", { spellcheck: "false", "aria-label": word("body") });
  const fill = () => {
    const examples = Object.values((media[type.value] || {}).examples || {});
    const value = examples.length ? examples[0].value : "";
    body.value = type.value === "application/x-ndjson" ? JSON.stringify(value) : exampleText(value);
  };
  type.addEventListener("change", fill);
  fill();
  const inputs = (operation.parameters || []).filter((parameter) => parameter.in === "path").map((parameter) => make("input", { "aria-label": parameter.name, "data-name": parameter.name, value: parameter.example || "" }));
  const output = make("div", { "aria-live": "polite" });
  const send = async () => {
    let target = path;
    for (const input of inputs) target = target.replace(`{${input.dataset.name}}`, encodeURIComponent(input.value));
    const options = { method: method.toUpperCase(), headers: { Accept: "*/*" } };
    if (operation.requestBody) Object.assign(options, { body: body.value, headers: { "Content-Type": type.value, Accept: "*/*" } });
    try {
      const response = await fetch(target, options);
      const text = await response.text();
      const kind = (response.headers.get("Content-Type") || "").split(";")[0];
      const shown = /^application\/(problem\+)?json$/.test(kind) ? JSON.stringify(JSON.parse(text), null, 2) : text;
      output.replaceChildren(prose(`${response.status} ${kind}`, "p", { class: `status ${response.ok ? "ok" : "problem"}` }), make("pre", {}, make("code", {}, shown)));
    } catch {
      output.replaceChildren(prose(word("unreachable"), "p", { class: "status problem" }));
    }
  };
  const box = make("details", { class: "try" }, make("summary", {}, word("tryIt")));
  for (const input of inputs) box.append(make("label", {}, input.dataset.name, input));
  if (operation.requestBody) box.append(make("label", {}, word("type"), type), make("label", {}, word("body"), body));
  box.append(make("button", { type: "button", class: "send", onclick: send }, word("send")), output);
  return box;
}

function article(path, method, operation) {
  const heading = `${operation.operationId}-heading`;
  const box = make("article", { id: operation.operationId, "aria-labelledby": heading });
  box.append(make("h2", { id: heading }, pick(operation.summary, " · ")));
  box.append(make("p", { class: "path" }, make("span", { class: `method ${method}` }, method.toUpperCase()), " ", path));
  box.append(prose(pick(operation.description, "\n\n")));
  if (operation.parameters) {
    box.append(make("h3", {}, word("parameters")));
    const list = make("ul", { class: "members" });
    for (const parameter of operation.parameters) list.append(member(`${parameter.name} (${parameter.in})`, { ...parameter.schema, description: parameter.description }, parameter.required, 9));
    box.append(list);
  }
  if (operation.requestBody) box.append(make("h3", {}, word("request")), ...content(operation.requestBody.content, true));
  box.append(make("h3", {}, word("responses")), ...responses(operation), tryOut(path, method, operation));
  return box;
}

function show() {
  document.documentElement.lang = language;
  const title = pick(api.info.title, " · ");
  document.title = title;
  document.getElementById("title").textContent = title;
  document.getElementById("version").textContent = api.info.version;
  for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", String(button.dataset.language === language));
  const contents = document.getElementById("contents");
  const main = document.getElementById("operations");
  contents.replaceChildren();
  main.replaceChildren(make("h1", {}, title), prose(pick(api.info.description, "\n\n")), make("p", {}, make("a", { href: "/openapi.json" }, `${word("define")} (OpenAPI ${api.openapi})`)));
  for (const tag of api.tags) {
    contents.append(make("h2", {}, pick(tag.description, " · ")));
    for (const [path, operations] of Object.entries(api.paths)) {
      for (const method of METHODS.filter((name) => operations[name] && operations[name].tags.includes(tag.name))) {
        const operation = operations[method];
        contents.append(make("a", { href: `#${operation.operationId}` }, make("span", { class: `method ${method}` }, method.toUpperCase()), make("span", {}, pick(operation.summary, " · "))));
        main.append(article(path, method, operation));
      }
    }
  }
}

function remembered() {
  try { return localStorage.getItem("language"); } catch { return null; }
}

function choose(chosen) {
  language = chosen;
  try { localStorage.setItem("language", chosen); } catch { /* private mode: the choice lasts as long as the page */ }
  show();
}

async function start() {
  language = remembered() || (navigator.language.startsWith("ja") ? "ja" : "en");
  api = await (await fetch("/openapi.json")).json();
  for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => choose(button.dataset.language));
  show();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

start();
