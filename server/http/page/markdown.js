// Renders a small part of Markdown as DOM nodes: paragraphs, fenced code,
// headings, lists, quotes, inline code, bold and italics. Text only ever
// becomes text nodes, so whatever a model writes stays harmless; links and
// images are shown as they were written.

const kFence = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)\s*$/;
const kHeading = /^(#{1,6})\s+(.*)$/;
const kItem = /^\s*(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const kQuote = /^>\s?(.*)$/;
// Each alternative ends at the next mark of its kind, so that time stays linear.
const kInline =
    /(?<!`)(`+)([^`]+)\1(?!`)|\*\*(\S(?:[^*]*\S)?)\*\*|\*(\S(?:[^*]*\S)?)\*/g;

function make(tag, parent) {
  const element = document.createElement(tag);
  parent.append(element);
  return element;
}

function appendInline(parent, text) {
  let end = 0;
  for (const match of text.matchAll(kInline)) {
    parent.append(text.slice(end, match.index));
    end = match.index + match[0].length;
    if (match[2] !== undefined) {
      make('code', parent).textContent = match[2];
    } else if (match[3] !== undefined) {
      make('strong', parent).textContent = match[3];
    } else {
      make('em', parent).textContent = match[4];
    }
  }
  parent.append(text.slice(end));
}

// The lines of a fenced block from `start`; returns the line after it. A block
// that is not closed yet (text still arrives) reaches to the end.
function appendFence(parent, lines, start, fence) {
  const code = make('code', make('pre', parent));
  let i = start;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  while (i < lines.length && !closes(lines[i])) ++i;
  code.textContent = lines.slice(start, i).join('\n');
  return i + 1;
}

// Replaces what `parent` shows by `text`.
export function renderMarkdown(parent, text) {
  const root = document.createDocumentFragment();
  const lines = text.split('\n');
  let open = null;  // paragraph, list or quote that the next line may join
  const continueOrOpen = (tag) => {
    if (open === null || open.localName !== tag) open = make(tag, root);
    return open;
  };
  for (let i = 0; i < lines.length;) {
    const line = lines[i++];
    let match;
    if ((match = kFence.exec(line))) {
      i = appendFence(root, lines, i, match[1]);
      open = null;
    } else if ((match = kHeading.exec(line))) {
      appendInline(make(match[1].length < 3 ? 'h3' : 'h4', root), match[2]);
      open = null;
    } else if ((match = kItem.exec(line))) {
      const list = continueOrOpen(match[1] === undefined ? 'ul' : 'ol');
      if (match[1] !== undefined && list.childElementCount === 0) {
        list.start = Number(match[1]);
      }
      appendInline(make('li', list), match[2]);
    } else if ((match = kQuote.exec(line))) {
      const quote = continueOrOpen('blockquote');
      if (quote.hasChildNodes()) make('br', quote);
      appendInline(quote, match[1]);
    } else if (line.trim() === '') {
      open = null;
    } else {
      const paragraph = continueOrOpen('p');
      if (paragraph.hasChildNodes()) paragraph.append('\n');
      appendInline(paragraph, line);
    }
  }
  parent.replaceChildren(root);
}
