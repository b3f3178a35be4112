// Keeps the page for visits without a network, and adds the headers without which browsers refuse threads. Hosts of static
// pages cannot always be told to send them.

const CACHE = "ccld-@BUILD@"; // the build replaces it with a hash of the folder
const FILES = ["@FILES@"]; // and this with the names of the page's files

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

function isolated(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  const url = new URL(request.url);
  const key = url.origin + url.pathname;
  const kept = await cache.match(key);
  if (kept) return isolated(kept);
  const response = await fetch(request);
  if (response.ok && response.status === 200) await cache.put(key, response.clone());
  return isolated(response);
}

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const removeOld = caches
    .keys()
    .then((names) => Promise.all(names.filter((name) => name.startsWith("ccld-") && name !== CACHE).map((n) => caches.delete(n))));
  event.waitUntil(removeOld.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === self.location.origin) event.respondWith(answer(request));
});
