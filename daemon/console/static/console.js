"use strict";
// The pages work without this file. It adds live logs, and fetches what would keep a page waiting.
const LINES_MAX = 1000; // what the page keeps; older ones leave

for (const button of document.querySelectorAll("button[data-live]")) {
  const target = document.getElementById(button.dataset.target);
  let source = null;
  button.hidden = false;

  const stop = (text) => {
    if (source) source.close();
    source = null;
    button.setAttribute("aria-pressed", "false");
    button.textContent = text || "Follow live";
  };

  const show = (line) => {
    const atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
    const row = document.createElement("div");
    const time = document.createElement("time");
    const text = document.createElement("span");
    row.className = "line " + (["stdout", "stderr", "platform"].includes(line.stream) ? line.stream : "");
    time.textContent = new Date(line.at || Date.now()).toTimeString().slice(0, 8);
    text.textContent = " " + line.line;
    row.append(time, text);
    for (const note of target.querySelectorAll("p")) note.remove();
    target.append(row);
    while (target.childElementCount > LINES_MAX) target.firstElementChild.remove();
    if (atEnd) target.scrollTop = target.scrollHeight;
  };

  button.addEventListener("click", () => {
    if (source) return stop();
    source = new EventSource(button.dataset.live);
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Following: stop";
    target.setAttribute("aria-live", "polite");
    source.addEventListener("line", (event) => {
      try { show(JSON.parse(event.data)); } catch { /* a line that is not ours */ }
    });
    source.addEventListener("error", () => {
      if (source && source.readyState === EventSource.CLOSED) stop("Connection lost: follow again");
    });
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
