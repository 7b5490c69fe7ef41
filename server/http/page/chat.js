// The chat page: keeps one conversation, sends it to /v1/chat/completions of
// the server it came from and shows the reply as it streams in.

import { renderMarkdown } from './markdown.js';

const $ = (id) => document.getElementById(id);
const kSettings = ['system', 'temperature', 'top-p', 'max-tokens', 'api-key'];
const kStorageKey = 'shoal.settings';

let conversation = [];  // {role, content}, without the system prompt
let running = null;     // AbortController of the reply under way

// ---- Settings

function loadSettings() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(kStorageKey)) ?? {};
  } catch {
    // Storage may be off, or hold what another version wrote.
  }
  for (const id of kSettings) {
    if (typeof kept[id] === 'string') $(id).value = kept[id];
  }
}

function saveSettings() {
  const kept = {};
  for (const id of kSettings) kept[id] = $(id).value;
  try {
    localStorage.setItem(kStorageKey, JSON.stringify(kept));
  } catch {
    // The settings hold for this visit.
  }
}

function showSettings(show) {
  $('settings').hidden = !show;
  $('settings-button').setAttribute('aria-expanded', String(show));
}

function headers() {
  const result = { 'Content-Type': 'application/json' };
  const key = $('api-key').value.trim();
  if (key) result.Authorization = `Bearer ${key}`;
  return result;
}

function requestBody() {
  const messages = [...conversation];
  const system = $('system').value.trim();
  if (system) messages.unshift({ role: 'system', content: system });
  const body = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  const number = (id, name) => {
    const value = $(id).valueAsNumber;
    if (Number.isFinite(value)) body[name] = value;
  };
  number('temperature', 'temperature');
  number('top-p', 'top_p');
  number('max-tokens', 'max_tokens');
  return body;
}

// ---- Messages on the page

function addMessage(role) {
  $('welcome')?.remove();
  const element = document.createElement('article');
  element.className = `message ${role}`;
  const who = document.createElement('div');
  who.className = 'who';
  who.textContent = role === 'user' ? 'You' : 'Assistant';
  const content = document.createElement('div');
  content.className = 'content';
  element.append(who, content);
  $('messages').append(element);
  return { element, content };
}

function addReasoning(view) {
  const details = document.createElement('details');
  details.className = 'reasoning';
  const summary = document.createElement('summary');
  summary.textContent = 'Reasoning';
  const text = document.createElement('div');
  details.append(summary, text);
  view.element.insertBefore(details, view.content);
  return text;
}

function showProblem(view, message) {
  const problem = document.createElement('p');
  problem.className = 'problem';
  problem.setAttribute('role', 'alert');
  problem.textContent = message;
  view.element.append(problem);
}

// Follows the text as long as the reader has not scrolled up.
function keepingAtEnd(change) {
  const log = $('messages');
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function setRunning(controller) {
  running = controller;
  $('send').hidden = controller !== null;
  $('stop').hidden = controller === null;
  $('messages').setAttribute('aria-busy', String(controller !== null));
}

// ---- Streaming

// Yields the data of server-sent events.
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf('\n\n')) >= 0) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (event.startsWith('data: ')) yield event.slice(6);
    }
  }
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

class Stats {
  #start = performance.now();
  #first = 0;
  #pieces = 0;

  onText() {
    this.#pieces += 1;
    this.#first ||= performance.now();
  }

  // `tokens`: as the server counted them; until then, pieces stand for them.
  show(tokens = this.#pieces) {
    if (!this.#first) return;
    const toFirst = Math.round(this.#first - this.#start);
    const seconds = (performance.now() - this.#first) / 1000;
    const rate = tokens > 1 && seconds > 0
        ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s, ` : '';
    $('stats').textContent =
        `${tokens} tokens, ${rate}first token after ${toFirst} ms`;
  }
}

// Shows the reply in `view`, at most once a frame; returns its text.
class ReplyView {
  text = '';
  #reasoning = '';
  #reasoningView = null;
  #view;
  #stats;
  #scheduled = false;

  constructor(view, stats) {
    this.#view = view;
    this.#stats = stats;
  }

  add(delta) {
    const reasoning = delta.reasoning_content ?? '';
    const text = delta.content ?? '';
    if (!text && !reasoning) return;
    this.#stats.onText();
    this.text += text;
    this.#reasoning += reasoning;
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(() => this.draw(), 40);
  }

  draw() {
    this.#scheduled = false;
    keepingAtEnd(() => {
      if (this.#reasoning) {
        this.#reasoningView ??= addReasoning(this.#view);
        this.#reasoningView.textContent = this.#reasoning;
      }
      renderMarkdown(this.#view.content, this.text);
    });
    this.#stats.show();
  }
}

async function streamReply(view, signal) {
  const stats = new Stats();
  const reply = new ReplyView(view, stats);
  let tokens;
  try {
    const response = await fetch('v1/chat/completions', {
      method: 'POST',
      headers: headers(),
      body: JSON.stringify(requestBody()),
      signal,
    });
    if (!response.ok) {
      if (response.status === 401) {
        showSettings(true);
        $('api-key').focus();
      }
      throw new Error(await problemOf(response));
    }
    let finished = false;
    for await (const data of readEvents(response.body)) {
      if (data === '[DONE]') {
        finished = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      tokens = chunk.usage?.completion_tokens ?? tokens;
      for (const choice of chunk.choices) reply.add(choice.delta);
    }
    if (!finished) throw new Error('The connection was lost.');
  } catch (error) {
    if (!signal.aborted) showProblem(view, error.message);
  }
  reply.draw();
  stats.show(tokens);
  return reply.text;
}

async function send() {
  const text = $('prompt').value.trim();
  if (!text || running) return;
  $('prompt').value = '';
  fitPrompt();
  conversation.push({ role: 'user', content: text });
  keepingAtEnd(() => { addMessage('user').content.textContent = text; });
  const view = addMessage('assistant');
  view.element.classList.add('busy');
  view.element.scrollIntoView({ block: 'end' });
  const controller = new AbortController();
  const ours = conversation;  // "New chat" may replace it meanwhile
  setRunning(controller);
  $('stats').textContent = '';
  $('announcer').textContent = 'Waiting for the reply';
  const reply = await streamReply(view, controller.signal);
  view.element.classList.remove('busy');
  if (reply) {
    ours.push({ role: 'assistant', content: reply });
  } else {
    ours.pop();  // a turn without an answer would confuse the next one
  }
  if (running !== controller) return;
  setRunning(null);
  $('announcer').textContent = 'The reply is complete';
  $('prompt').focus();
}

function newChat() {
  running?.abort();
  setRunning(null);
  conversation = [];
  $('messages').replaceChildren();
  $('stats').textContent = '';
  $('announcer').textContent = 'New chat';
  $('prompt').focus();
}

function fitPrompt() {
  const prompt = $('prompt');
  prompt.rows = Math.min(10, prompt.value.split('\n').length);
}

async function showModel() {
  try {
    const response = await fetch('v1/models', { headers: headers() });
    if (!response.ok) return;
    const model = (await response.json()).data[0].id;
    $('model').textContent = model;
    document.title = `${model} - Shoal chat`;
  } catch {
    // The first message will tell what is wrong.
  }
}

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
$('prompt').addEventListener('input', fitPrompt);
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort();
});
$('stop').addEventListener('click', () => running?.abort());
$('new-chat').addEventListener('click', newChat);
$('settings-button').addEventListener('click', () => {
  showSettings($('settings').hidden);
});
$('settings').addEventListener('input', saveSettings);
$('settings').addEventListener('submit', (event) => event.preventDefault());
$('api-key').addEventListener('change', showModel);

loadSettings();
showModel();
