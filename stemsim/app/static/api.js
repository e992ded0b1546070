// The HTTP API of the server: docs/http-api.md describes it.

/** An answer that says what went wrong, in words for the user. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body) {
  const raw = body instanceof Blob;
  const type = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": type },
      body: raw || body === undefined ? body : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(
      "The server does not answer. Is stemsim app still running? Start it again and reload this page.",
      0,
    );
  }
  if (response.status === 401)
    throw new ApiError("This page is not signed in. Open the address that stemsim app printed, with its token.", 401);
  if (!response.ok) throw new ApiError((await response.json()).error.message, response.status);
  return response;
}

export const get = async (path) => (await request("GET", path)).json();
export const post = async (path, body) => (await request("POST", path, body)).json();
export const put = async (path, blob) => (await request("PUT", path, blob)).json();
export const cancel = (job) => request("DELETE", `/api/job/${job}`);

/** Bytes of an audio file of the server. */
export const audio = async (path) => (await request("GET", path)).arrayBuffer();

/** Sounds or a table as a file: `{blob, name}`. */
export async function exported(wanted) {
  const response = await request("POST", "/api/export", wanted);
  return { blob: await response.blob(), name: `stemsim.${wanted.format}` };
}

/** What a job is at, and how long it will still take. */
export const stageText = ({ stage, seconds_left: left }) =>
  left ? `${stage}, about ${Math.ceil(left)} s left` : stage;

/** Follow a job to its end, telling `show` where it stands; return its last state. */
export async function follow(job, show) {
  for (;;) {
    const state = await get(`/api/job/${job}`);
    show(state);
    if (state.state === "done") return state;
    if (state.state === "failed") throw new ApiError(state.error.message, 400);
    if (state.state === "cancelled") throw new ApiError("Cancelled.", 400);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
