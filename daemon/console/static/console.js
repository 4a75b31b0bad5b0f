"use strict";
// The pages work without this file. It adds live logs, and fetches what would keep a page waiting.
const LINES_MAX = 1000; // what the page keeps; older ones leave

const AGAIN_MS = 3000; // pause before a connection that the browser gave up is opened again
const AGAIN_MAX = 200; // how often, without an answer in between

for (const button of document.querySelectorAll("button[data-live]")) {
  const target = document.getElementById(button.dataset.target);
  const aheadMs = Number(button.dataset.aheadS) * 1000; // of UTC: all times on the pages are the machine's
  let source = null;
  let timer = null;
  let tries = 0;
  let last = ""; // id of the last line: what follows it comes next, whatever happened to the connection
  button.hidden = false;

  const say = (text, pressed) => {
    button.setAttribute("aria-pressed", String(pressed));
    button.textContent = text;
  };

  const stop = (text) => {
    if (source) source.close();
    clearTimeout(timer);
    source = timer = null;
    say(text || "Follow live", false);
  };

  const show = (line) => {
    const atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
    const row = document.createElement("div");
    const time = document.createElement("time");
    const text = document.createElement("span");
    row.className = "line " + (["stdout", "stderr", "platform"].includes(line.stream) ? line.stream : "");
    time.textContent = new Date(Date.parse(line.at) + aheadMs).toISOString().slice(11, 19);
    text.textContent = " " + line.line;
    row.append(time, text);
    for (const note of target.querySelectorAll("p")) note.remove();
    target.append(row);
    while (target.childElementCount > LINES_MAX) target.firstElementChild.remove();
    if (atEnd) target.scrollTop = target.scrollHeight;
  };

  const open = () => {
    const url = new URL(button.dataset.live, location.href);
    if (last) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.addEventListener("open", () => {
      tries = 0;
      say("Following: stop", true);
    });
    source.addEventListener("line", (event) => {
      last = event.lastEventId || last;
      try { show(JSON.parse(event.data)); } catch { /* a line that is not ours */ }
    });
    source.addEventListener("error", () => {
      if (!source) return;
      say("Connection lost, trying again: stop", true);
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      source.close();
      if (++tries > AGAIN_MAX) stop("Connection lost: follow again");
      else timer = setTimeout(open, AGAIN_MS);
    });
  };

  button.addEventListener("click", () => {
    if (source) return stop();
    tries = 0;
    target.setAttribute("aria-live", "polite");
    say("Following: stop", true);
    open();
    target.scrollTop = target.scrollHeight;
  });
}

// A second click while the answer is awaited would call the function, or create a thing, once more.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

for (const logs of document.querySelectorAll(".logs")) logs.scrollTop = logs.scrollHeight;

for (const section of document.querySelectorAll("section[data-later]")) {
  fetch(section.dataset.later).then(async (reply) => {
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const found = page.getElementById("advice");
    if (reply.ok && found) section.replaceWith(found);
  }).catch(() => { /* the link is there */ });
}
