// The site's only script: copy buttons, the picker, the comparison and the search. No library, no network.
// `compatibility` and `best` do what host/compatibility.py and host/doctor.py do, `changes` what diff/compare.py does;
// tests compare each pair.
"use strict";
(() => {
  const data = window.torchlocksData;
  if (data) {
    // Positions are written as distances, which are shorter.
    for (const positions of Object.values(data.cells)) {
      for (let at = 1; at < positions.length; at += 1) positions[at] += positions[at - 1];
    }
  }
  const root = document.body ? document.body.dataset.root || "" : "";

  // --- Small helpers -------------------------------------------------------------------------------
  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function size(count) {
    if (count === null || count === undefined) return "unknown";
    if (count < 1e3) return `${count} B`;
    if (count < 1e6) return `${(count / 1e3).toFixed(0)} kB`;
    return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(1)} GB`;
  }

  function compareVersions(left, right) {
    const a = left.split(".").map(Number), b = right.split(".").map(Number);
    for (let at = 0; at < Math.max(a.length, b.length); at += 1) {
      const difference = (a[at] || 0) - (b[at] || 0);
      if (difference) return difference;
    }
    return 0;
  }

  const older = (left, right) => compareVersions(left, right) < 0;
  const major = (version) => Number(version.split(".")[0]);

  // --- Lines to paste ------------------------------------------------------------------------------
  // On the web a line fetches the file from here; from a folder it names the file in a clone.
  const onTheWeb = /^https?:$/.test(location.protocol);
  const home = new URL(root || ".", location.href).href;

  function fill(template, env, platform, path) {
    const values = { env, platform, path, url: home + path, folder: `${home}locks/${env}` };
    return template.replace(/\{(env|platform|path|url|folder)\}/g, (_, name) => values[name]);
  }

  async function copy(text) {
    if (navigator.clipboard) {
      try {
        await navigator.clipboard.writeText(text);
        return;
      } catch { /* Refused, as in some frames: the old way is left. */ }
    }
    const area = element("textarea", { class: "hidden-text", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser does not let this page copy");
  }

  const spoken = element("p", { class: "hidden-text", role: "status" });

  function addCopy(button) {
    button.addEventListener("click", async () => {
      const line = button.parentElement.querySelector("code").textContent;
      const before = [...button.childNodes];
      try {
        await copy(line);
        button.replaceChildren("Copied ✓");
        spoken.textContent = "The line was copied.";
      } catch {
        button.replaceChildren("Select it");
        spoken.textContent = "The line could not be copied; select it instead.";
        getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      }
      setTimeout(() => button.replaceChildren(...before), 2000);
    });
  }

  function pasteLine(text) {
    const button = element("button", { type: "button", class: "copy", "data-copy": "" }, "Copy");
    addCopy(button);
    return element("div", { class: "line" }, element("pre", { tabindex: "0" }, element("code", {}, text)), button);
  }

  // --- Which environment runs on a machine -----------------------------------------------------------
  const TEGRA = ["5.3", "6.2", "7.2", "8.7", "10.1", "11.0"];

  function codeFor(capability, architectures, ptx) {
    if (architectures.includes(capability)) return "machine";
    const usable = (each) => !TEGRA.includes(each) && major(each) === major(capability) && !older(capability, each);
    if (!TEGRA.includes(capability) && architectures.some(usable)) return "machine";
    return ptx && !older(capability, ptx) ? "ptx" : null;
  }

  // {state, reasons: [[kind, text]], gpus}: compatibility with a machine that has at most one kind of GPU.
  function compatibility(entry, machine) {
    const refused = (kind, text) => ({ state: "does-not-run", reasons: [[kind, text]], gpus: 0 });
    const floors = [["glibc", "glibc", entry.glibc, machine.glibc], ["osx", "macOS", entry.osx, machine.osx]];
    for (const [kind, name, needed, there] of floors) {
      if (needed && there && older(there, needed)) return refused(kind, `it needs ${name} ${needed} or newer`);
    }
    const cuda = entry.cuda;
    if (!cuda) return { state: "runs", reasons: [], gpus: 0 };
    const system = machine.wsl || machine.platform.startsWith("win") ? "windows" : "linux";
    const drivers = cuda.drivers[system];
    if (!machine.driver) return { state: "unknown", reasons: [["no-driver", "no NVIDIA driver"]], gpus: 0 };
    if (older(machine.driver, drivers.floor)) {
      return refused("driver-floor", `driver ${machine.driver} is older than ${drivers.floor}, the oldest for CUDA ${major(cuda.version)}`);
    }
    const reasons = [];
    if (drivers.shipped && older(machine.driver, drivers.shipped)) {
      reasons.push(["minor-version", `driver ${machine.driver} is older than CUDA ${cuda.version}; it runs through minor-version compatibility`]);
    }
    if (!machine.capability) return { state: "unknown", reasons: [...reasons, ["no-gpu", "the GPU is not known, so whether torch has code for it is not, either"]], gpus: 0 };
    const sm = `sm_${machine.capability.replace(".", "")}`;
    const code = codeFor(machine.capability, cuda.architectures, cuda.ptx);
    const lacking = cuda.libraries.find((each) => older(machine.capability, each.oldest));
    if (code && lacking) return refused("architecture", `${lacking.library} ${lacking.version} has no code for ${sm}`);
    if (code === "machine") return { state: reasons.length ? "runs-with-remark" : "runs", reasons, gpus: 1 };
    if (code === "ptx") {
      const compiler = cuda.toolkit_drivers ? cuda.toolkit_drivers[system].shipped : null;
      if (compiler && older(machine.driver, compiler)) {
        return refused("ptx-driver", `torch has only PTX for ${sm}, which driver ${machine.driver} is too old to compile`);
      }
      reasons.push(["ptx", `torch has only PTX for ${sm}, which the driver compiles, so that the first start is slow`]);
      return { state: "runs-with-remark", reasons, gpus: 1 };
    }
    const relative = TEGRA.includes(machine.capability) && cuda.architectures.some((each) => major(each) === major(machine.capability));
    if (relative) return { state: "unknown", reasons: [...reasons, ["architecture", `torch has code for relatives of ${sm} alone`]], gpus: 0 };
    return refused("architecture", `torch has no code for ${sm}`);
  }

  // The position of the best in a list of results with their entries, or -1.
  function best(checked) {
    const open = (fit) => fit.state === "unknown" && fit.reasons.some(([kind]) => kind === "no-driver" || kind === "architecture");
    const possible = checked.filter(({ fit }) => fit.state !== "does-not-run" && !open(fit));
    const withCuda = possible.filter(({ entry }) => entry.cuda);
    if (!withCuda.length) return possible.length ? checked.indexOf(possible[0]) : -1;
    const rank = ({ fit, entry }) => [fit.state !== "unknown" ? 1 : 0, fit.gpus, fit.reasons.some(([kind]) => kind === "ptx") ? 0 : 1, entry.cuda.version];
    const better = (left, right) => {
      const a = rank(left), b = rank(right);
      for (let at = 0; at < 3; at += 1) if (a[at] !== b[at]) return a[at] > b[at];
      return compareVersions(a[3], b[3]) > 0;
    };
    return checked.indexOf(withCuda.reduce((chosen, each) => (better(each, chosen) ? each : chosen)));
  }

  // machine: {platform, driver, capability, glibc, osx, wsl}; versions have at least two parts.
  function pick(machine) {
    const checked = [];
    for (const env of data.index.environments) {
      if (env.variant_of !== null) continue;
      for (const entry of env.platforms) {
        if (entry.platform === machine.platform) checked.push({ env, entry, fit: compatibility(entry, machine) });
      }
    }
    const at = best(checked);
    return { chosen: at < 0 ? null : checked[at], checked };
  }

  // The decoded fragment of the address; empty if it is not well formed.
  function fragment() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return "";
    }
  }

  const asVersion = (text) => (text.includes(".") ? text : `${text}.0`);

  function setUpPicker(form) {
    for (const [name, capability] of Object.entries(data.gpus)) {
      form.elements.gpu.append(element("option", { value: capability }, `${name} (sm_${capability.replace(".", "")})`));
    }
    const shown = document.getElementById("picked");
    const show = () => {
      const [platform, wsl] = form.elements.platform.value.split(" ");
      const driver = form.elements.driver.value.trim(), glibc = form.elements.glibc.value.trim();
      for (const [name, value] of [["driver", driver], ["glibc", glibc]]) {
        const wrong = value !== "" && !/^\d+(\.\d+)*$/.test(value);
        form.elements[name].setAttribute("aria-invalid", String(wrong));
        if (wrong) {
          shown.replaceChildren(element("p", { class: "warn" }, `“${value}” is no version of ${name}: give numbers and dots, such as 535.104.05.`));
          return;
        }
      }
      const machine = {
        platform, wsl: Boolean(wsl), driver: driver ? asVersion(driver) : null, glibc: glibc ? asVersion(glibc) : null,
        capability: form.elements.gpu.value || null, osx: null,
      };
      const { chosen, checked } = pick(machine);
      if (!chosen) {
        const why = checked.map(({ env, fit }) => element("li", {}, `${env.name}: ${fit.reasons.map(([, text]) => text).join("; ")}`));
        shown.replaceChildren(element("p", { class: "chosen" }, "✗ No environment runs there."), element("ul", {}, ...why));
        return;
      }
      const { env, entry, fit } = chosen;
      const client = data.index.clients.find((each) => each.name === form.elements.client.value);
      const path = `locks/${env.name}/${client.file.replace("{platform}", platform)}`;
      const cuda = entry.cuda ? `CUDA ${entry.cuda.version}` : "CPU only";
      const parts = [
        element("p", { class: "chosen" }, element("a", { href: root + entry.page }, env.name), ` on ${platform}`),
        element("p", {}, `torch ${entry.torch}, ${cuda}, Python ${entry.python}, ${size(entry.download_bytes)} to download`),
        pasteLine(fill(onTheWeb ? client.remote : client.line, env.name, platform, path)),
        ...fit.reasons.map(([, text]) => element("p", { class: "small muted" }, `Note: ${text}.`)),
      ];
      if (machine.capability && !machine.driver && checked.some((each) => each.entry.cuda)) {
        parts.push(element("p", { class: "warn" }, "A GPU requires a driver: give its version to see the environment for it."));
      }
      const refused = checked.filter((each) => each.entry.cuda && each.fit.state === "does-not-run");
      if (!entry.cuda && machine.driver && refused.length) {
        const why = refused.map((each) => element("li", {}, `${each.env.name}: ${each.fit.reasons.map(([, text]) => text).join("; ")}`));
        parts.push(element("details", {}, element("summary", {}, "Why no CUDA environment"), element("ul", {}, ...why)));
      }
      shown.replaceChildren(...parts);
    };
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  // --- What is different between two environments ----------------------------------------------------
  const NAME = 0, VERSION = 1, BUILD = 2, SUBDIR = 3, BYTES = 4, LICENCE = 5, RANK = 7;

  function packagesOf(key) {
    return new Map(data.cells[key].map((position) => [data.packages[position][NAME], data.packages[position]]));
  }

  function changes(beforeKey, afterKey) {
    const before = packagesOf(beforeKey), after = packagesOf(afterKey);
    // One project under two spellings (typing-extensions, typing_extensions) is one change, where each side has one.
    const spelled = (name) => name.toLowerCase().replace(/[-_.]+/g, "-");
    const gone = new Map([...before.keys()].filter((name) => !after.has(name)).map((name) => [spelled(name), name]));
    for (const name of [...after.keys()].filter((each) => !before.has(each) && gone.has(spelled(each)))) {
      before.set(name, before.get(gone.get(spelled(name))));
      before.delete(gone.get(spelled(name)));
      gone.delete(spelled(name));
    }
    const found = [];
    for (const name of [...new Set([...before.keys(), ...after.keys()])].sort()) {
      const old = before.get(name), now = after.get(name);
      if (old === now) continue;
      // The same build for another platform is no change.
      const other = old && now && old[SUBDIR] !== now[SUBDIR] && ![old[SUBDIR], now[SUBDIR]].includes("noarch");
      if (other && old[VERSION] === now[VERSION] && old[BUILD] === now[BUILD]) continue;
      let move = "replaced";
      if (!old) move = "added";
      else if (!now) move = "removed";
      else if (old[VERSION] !== now[VERSION]) move = now[RANK] > old[RANK] ? "upgraded" : "downgraded";
      else if (old[BUILD] !== now[BUILD]) move = "rebuilt";
      found.push({ name, move, before: old, after: now });
    }
    return found;
  }

  // Entries by env/platform, and for each package the cells that have it: made once, when first needed.
  function once(make) {
    let made;
    return () => (made ??= make());
  }

  const entries = once(() => new Map(data.index.environments.flatMap((env) => env.platforms.map((entry) => [`${env.name}/${entry.platform}`, entry]))));
  const entryOf = (key) => entries().get(key);
  const holders = once(() => {
    const found = data.packages.map(() => []);
    for (const [key, positions] of Object.entries(data.cells)) for (const position of positions) found[position].push(key);
    return found;
  });

  function factsOf(key) {
    const entry = entryOf(key), cuda = entry.cuda;
    const system = entry.platform.startsWith("win") ? "windows" : "linux";
    return [
      ["PyTorch", entry.torch], ["Python", entry.python], ["CUDA libraries", cuda ? cuda.version : "none"],
      ["NVIDIA driver", cuda ? `≥ ${cuda.drivers[system].floor}` : "none"],
      ["GPU architectures", cuda ? cuda.architectures.join(" ") + (cuda.ptx ? ` +PTX ${cuda.ptx}` : "") : "none"],
      ["glibc", entry.glibc ? `≥ ${entry.glibc}` : "none"], ["packages", String(entry.packages)],
      ["download", size(entry.download_bytes)],
    ];
  }

  function table(caption, heads, rows) {
    const head = element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))));
    const body = element("tbody", {}, ...rows.map(([first, ...rest]) =>
      element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, cell)))));
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
      element("table", {}, element("caption", {}, caption), head, body));
  }

  function setUpComparison(form) {
    const shown = document.getElementById("compared");
    const { before, after } = form.elements;
    const fromAddress = () => {
      const named = fragment().split("...");
      if (named.length === 2 && named.every((key) => Object.hasOwn(data.cells, key))) [before.value, after.value] = named;
      show();
    };
    const show = () => {
      const keys = [before.value, after.value];
      const found = changes(...keys);
      const counts = new Map();
      for (const change of found) counts.set(change.move, (counts.get(change.move) || 0) + 1);
      const old = factsOf(keys[0]), now = factsOf(keys[1]);
      const facts = old.map(([name, value], at) => [name, value, value === now[at][1] ? "the same" : now[at][1]]);
      const cell = (record) => (record ? element("span", {}, record[VERSION], element("br"), element("span", { class: "muted small" }, record[BUILD])) : "–");
      const rows = found.map((change) => {
        const more = (change.after ? change.after[BYTES] : 0) - (change.before ? change.before[BYTES] : 0);
        const growth = more ? `${more > 0 ? "+" : "−"}${size(Math.abs(more))}` : "0";
        return [change.name, change.move, cell(change.before), cell(change.after), growth];
      });
      const summary = found.length ? [...counts].map(([move, count]) => `${count} ${move}`).join(", ") : "No package is different";
      shown.replaceChildren(
        element("h2", {}, `${keys[0].replace("/", " on ")} → ${keys[1].replace("/", " on ")}`),
        element("p", { class: "chosen" }, `${summary}.`),
        table("What it means", ["Fact", ...keys.map((key) => key.replace("/", " on "))], facts),
        ...(found.length ? [element("h2", {}, "Packages"), table(`${found.length} packages that are different`, ["Package", "Change", "From", "To", "Download"], rows)] : []),
      );
    };
    const changed = () => {
      history.replaceState(null, "", `#${before.value}...${after.value}`);
      show();
    };
    form.addEventListener("input", changed);
    document.getElementById("swap").addEventListener("click", () => {
      [before.value, after.value] = [after.value, before.value];
      changed();
    });
    // The question that most have: what the first CUDA environment has that the CPU's has not.
    const platform = before.value.split("/")[1];
    const cuda = [...after.options].findIndex((each) => each.value.endsWith(`/${platform}`) && entryOf(each.value).cuda);
    if (after.options.length > 1) after.selectedIndex = Math.max(cuda, 1);
    addEventListener("hashchange", fromAddress);
    fromAddress();
  }

  // --- Packages across all locks ---------------------------------------------------------------------
  function search(text) {
    const wanted = text.trim().toLowerCase();
    const found = new Map();
    if (!wanted) return found;
    data.packages.forEach((record, position) => {
      if (!record[NAME].includes(wanted)) return;
      if (!found.has(record[NAME])) found.set(record[NAME], []);
      found.get(record[NAME]).push({ record, cells: holders()[position] });
    });
    // An exact name first, then names that begin so, then the others.
    const order = (name) => (name === wanted ? 0 : name.startsWith(wanted) ? 1 : 2);
    return new Map([...found].sort(([a], [b]) => order(a) - order(b) || (a < b ? -1 : 1)));
  }

  // What is drawn at once: names, builds of all of them together, and cells of one build. The rest is drawn on request.
  const MOST = 40, BUILDS = 60, CELLS = 5, NEXT = 200;

  function links(keys) {
    return keys.flatMap((key, at) => [at ? ", " : "", element("a", { href: `${root}${entryOf(key).page}` }, key.replace("/", " on "))]);
  }

  // The first cells, and a button that shows the next of them.
  function where(keys) {
    const shown = element("span", { class: "small where" }, ...links(keys.slice(0, CELLS)));
    let at = CELLS;
    if (keys.length <= at) return shown;
    const more = element("button", { type: "button", class: "more" }, `and ${keys.length - at} more`);
    more.addEventListener("click", () => {
      more.before(", ", ...links(keys.slice(at, at + NEXT)));
      at += NEXT;
      if (at >= keys.length) more.remove();
      else more.textContent = `and ${keys.length - at} more`;
    });
    shown.append(" ", more);
    return shown;
  }

  function setUpSearch(form) {
    const shown = document.getElementById("found"), field = form.elements.name;
    const show = () => {
      const found = search(field.value);
      if (!field.value.trim()) {
        shown.replaceChildren(element("p", { class: "muted" }, `${new Set(data.packages.map((record) => record[NAME])).size} packages in ${Object.keys(data.cells).length} locks. Type a name, or a part of one.`));
        return;
      }
      const names = [...found.keys()];
      const count = names.length === 1 ? "1 package" : `${names.length} packages`;
      const parts = [];
      let left = BUILDS;
      for (const name of names.slice(0, MOST)) {
        if (left <= 0) break;
        const builds = [...found.get(name)].sort((a, b) => b.record[RANK] - a.record[RANK]);
        const drawn = names.length === 1 ? builds : builds.slice(0, left);
        left -= drawn.length;
        const rows = drawn.map(({ record, cells }) => [
          record[VERSION], where(cells),
          element("span", { class: "small" }, `${record[BUILD]} (${record[SUBDIR]})`), size(record[BYTES]), data.licences[record[LICENCE]],
        ]);
        const all = drawn.length === builds.length ? "in the locks" : `in the locks (${drawn.length} of ${builds.length} builds)`;
        parts.push([element("h2", {}, name), table(`${name} ${all}, the newest first`, ["Version", "In", "Build", "Download", "Licence"], rows)]);
      }
      const some = parts.length < names.length ? `; the first ${parts.length} are shown` : "";
      const summary = names.length ? `${count} with “${field.value.trim()}” in the name${some}.` : `No lock has a package with “${field.value.trim()}” in its name.`;
      parts.unshift([element("p", {}, summary)]);
      shown.replaceChildren(...parts.flat());
    };
    const fromAddress = () => {
      if (location.hash) field.value = fragment();
      show();
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    field.addEventListener("input", () => {
      history.replaceState(null, "", field.value.trim() ? `#${encodeURIComponent(field.value.trim())}` : location.pathname);
      show();
    });
    addEventListener("hashchange", fromAddress);
    fromAddress();
  }

  // --- Start -----------------------------------------------------------------------------------------
  document.body.append(spoken);
  if (onTheWeb) {
    for (const code of document.querySelectorAll("code[data-remote]")) code.textContent = code.dataset.remote.replaceAll("{root}", home);
  }
  for (const button of document.querySelectorAll("[data-copy]")) addCopy(button);
  for (const [id, setUp] of [["picker", setUpPicker], ["compare", setUpComparison], ["search", setUpSearch]]) {
    const form = document.getElementById(id);
    if (form && data) setUp(form);
  }
  window.torchlocks = { pick, changes, search };
})();
