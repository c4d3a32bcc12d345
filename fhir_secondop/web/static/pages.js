// Search as you type, and the draft saved as one types. Everything works without it, by buttons.
"use strict";

for (const box of document.querySelectorAll("[data-filter]")) {
  const target = document.getElementById(box.dataset.filter);
  const said = document.getElementById(box.dataset.said);
  const lines = [...target.querySelectorAll("[data-line]")].map((node) => [node, node.textContent.toLowerCase()]);
  const chapters = [...target.querySelectorAll("details[data-chapter]")].map((node) => [node, node.open]);
  box.closest("[hidden]")?.removeAttribute("hidden");
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [node, text] of lines) {
      node.hidden = !words.every((word) => text.includes(word));
      shown += node.hidden ? 0 : 1;
    }
    for (const [chapter, open] of chapters) {
      const any = chapter.querySelector("[data-line]:not([hidden])") !== null;
      chapter.hidden = words.length > 0 && !any;
      chapter.open = words.length > 0 ? any : open;
    }
    said.textContent = words.length ? `${shown} of ${lines.length} lines` : `${lines.length} lines`;
  });
}

const form = document.querySelector("form[data-draft]");
if (form) {
  const PAUSE_MS = 1200;
  const RETRY_MS = 15000;
  const status = document.getElementById("draft-status");
  const conflict = document.getElementById("draft-conflict");
  let dirty = false;
  let saving = null;
  let stopped = false;
  let leaving = false;
  let timer = 0;

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const later = (pause) => { clearTimeout(timer); timer = setTimeout(save, pause); };

  async function send() {
    dirty = false;
    say("Saving …");
    try {
      const answer = await fetch(form.action, {
        method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" },
        redirect: "error",
      });
      const said = await answer.json();
      if (answer.ok) {
        form.elements.version.value = said.version;
        say(dirty ? "Not saved yet" : `Saved ${said.saved}`);
        return;
      }
      dirty = true;
      say(`Not saved: ${said.message}`);
      if (answer.status === 409) {
        stopped = true;
        conflict.hidden = false;
      } else if (answer.status === 401 || answer.status >= 500) {
        later(RETRY_MS);
      }
    } catch {
      dirty = true;
      say("Not saved: no connection. What you typed is still here; it is tried again.");
      later(RETRY_MS);
    }
  }

  function save() {
    if (!dirty || stopped || saving) return;
    saving = send().finally(() => { saving = null; if (dirty && !stopped && status.textContent === "Not saved yet") later(PAUSE_MS); });
  }

  form.addEventListener("input", () => {
    dirty = true;
    if (stopped) return;
    say("Not saved yet");
    later(PAUSE_MS);
  });
  form.addEventListener("submit", (event) => {
    clearTimeout(timer);
    if (saving) {
      // One at a time: the version in the form must be the stored one.
      event.preventDefault();
      const by = event.submitter;
      saving.finally(() => form.requestSubmit(by));
      return;
    }
    leaving = true;
  });
  window.addEventListener("beforeunload", (event) => { if (dirty && !leaving) event.preventDefault(); });
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") save(); });
  // Back from a later page, a browser may show this one as it was left, with a version that is no longer the stored one.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  for (const add of form.querySelectorAll("[data-add]")) {
    const rows = document.getElementById(add.dataset.add);
    add.hidden = false;
    add.addEventListener("click", () => {
      const number = rows.children.length;
      const row = rows.lastElementChild.cloneNode(true);
      row.innerHTML = row.innerHTML.replaceAll(`${add.dataset.row}.${number - 1}.`, `${add.dataset.row}.${number}.`);
      row.querySelector("legend").textContent = `${add.dataset.title} ${number + 1}`;
      for (const field of row.querySelectorAll("input, textarea, select")) field.value = "";
      rows.append(row);
      row.querySelector("input, textarea").focus();
      add.hidden = rows.children.length >= Number(add.dataset.most);
    });
  }
}
