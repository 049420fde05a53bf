/**
 * ONNX Runtime Web, opened and closed: one graph at a time, as the runner does it (session.py).
 *
 * @typedef {import("./bundle.mjs").BundleFiles} BundleFiles
 * @typedef {import("./bundle.mjs").GraphSpec} GraphSpec
 * @typedef {"wasm" | "webgpu"} Provider
 * @typedef {{provider: Provider, threads: number}} Engine
 */

const BUILDS = {
  wasm: { module: "ort.wasm.min.mjs", binary: "ort-wasm-simd-threaded" },
  webgpu: { module: "ort.webgpu.min.mjs", binary: "ort-wasm-simd-threaded.asyncify" },
};
/** ONNX Runtime's flash attention takes subgroups of at least this many lanes for granted, and is wrong with fewer. */
const LEAST_LANES = 8;

/** An open graph. */
export class Session {
  /**
   * @param {any} ort
   * @param {any} session
   * @param {GraphSpec} spec
   */
  constructor(ort, session, spec) {
    this.ort = ort;
    this.session = session;
    this.spec = spec;
  }

  /**
   * Float32 outputs by name.
   * @param {Record<string, Float32Array | BigInt64Array | Int32Array>} inputs
   * @param {string[]} [wanted] default: all
   * @returns {Promise<Record<string, Float32Array>>}
   */
  async run(inputs, wanted) {
    /** @type {Record<string, any>} */
    const feeds = {};
    for (const { name, shape, dtype } of this.spec.inputs) feeds[name] = new this.ort.Tensor(dtype, inputs[name], shape);
    const names = wanted ?? this.spec.outputs.map((output) => output.name);
    const results = await this.session.run(feeds, names);
    /** @type {Record<string, Float32Array>} */
    const outputs = {};
    for (const name of names) {
      outputs[name] = new Float32Array(results[name].data);
      results[name].dispose?.();
    }
    return outputs;
  }

  async close() {
    await this.session.release();
  }
}

/** Opens graphs of one bundle on one engine. */
export class SessionOpener {
  /**
   * @param {any} ort
   * @param {Engine} engine
   * @param {BundleFiles} files
   * @param {Record<string, GraphSpec>} graphs
   */
  constructor(ort, engine, files, graphs) {
    this.ort = ort;
    this.engine = engine;
    this.files = files;
    this.graphs = graphs;
    this.keeping = false;
    /** @type {Map<string, Session>} */
    this.kept = new Map();
  }

  /**
   * @param {string} root address of the page
   * @param {Engine} engine
   * @param {BundleFiles} files
   * @param {Record<string, GraphSpec>} graphs
   */
  static async load(root, engine, files, graphs) {
    const build = BUILDS[engine.provider];
    if (engine.provider === "webgpu") hideNarrowSubgroups();
    const ort = await import(`${root}runtime/${build.module}`);
    ort.env.wasm.numThreads = engine.threads;
    ort.env.wasm.wasmPaths = {
      mjs: `${root}runtime/${build.binary}.mjs`,
      wasm: `${root}runtime/${build.binary}.wasm`,
    };
    ort.env.logLevel = "error";
    return new SessionOpener(ort, engine, files, graphs);
  }

  /**
   * Open a graph by its name in the contract.
   * @param {string} name
   */
  async open(name) {
    const spec = this.graphs[name];
    const folder = spec.file.includes("/") ? spec.file.slice(0, spec.file.lastIndexOf("/") + 1) : "";
    const externalData = [];
    for (const path of spec.weights)
      externalData.push({ path: path.slice(folder.length), data: await this.files.bytes(path) });
    const session = await this.ort.InferenceSession.create(await this.files.bytes(spec.file), {
      executionProviders: [this.engine.provider],
      externalData,
    });
    return new Session(this.ort, session, spec);
  }

  /**
   * Open a graph, use it, and close it unless graphs are kept.
   * @template T
   * @param {string} name
   * @param {(session: Session) => Promise<T>} use
   * @returns {Promise<T>}
   */
  async with(name, use) {
    const session = this.kept.get(name) ?? (await this.open(name));
    if (this.keeping) this.kept.set(name, session);
    try {
      return await use(session);
    } finally {
      if (!this.keeping) await session.close();
    }
  }

  /**
   * Leave every graph open after its first use, in the memory of all together; or no more.
   * @param {boolean} keeping
   */
  async keep(keeping) {
    this.keeping = keeping;
    if (keeping) return;
    for (const session of this.kept.values()) await session.close();
    this.kept.clear();
  }
}

/** @param {number[]} shape */
export function sizeOf(shape) {
  return shape.reduce((product, side) => product * side, 1);
}

/**
 * Engines that this browser has for a bundle, the likely best first; and what to know of a GPU that is left out.
 * @param {{precision: string, parity: {needs: Record<string, {largest_mb: number}>}}} contract
 * @param {boolean} checkable whether the bundle holds golden tensors: a GPU is taken at once only if it proves right
 * @param {boolean} isolated whether the page may have threads
 * @returns {Promise<{engines: Engine[], note: string}>}
 */
export async function engines(contract, checkable, isolated) {
  const cores = Math.max(1, navigator.hardwareConcurrency ?? 1);
  const counts = isolated ? [4, 2, 1].filter((count) => count <= cores) : [1];
  /** @type {Engine[]} */
  const found = counts.map((threads) => ({ provider: "wasm", threads }));
  // 8-bit kernels are not on the GPU: such a bundle would be copied to and fro at every layer.
  const adapter = contract.precision === "int8" ? null : await gpuAdapter();
  if (adapter === null) return { engines: found, note: "" };
  const note = unfit(adapter, contract);
  if (note) return { engines: found, note };
  /** @type {Engine} */
  const gpu = { provider: "webgpu", threads: 1 };
  return { engines: checkable ? [gpu, ...found] : [...found, gpu], note };
}

/**
 * Why a GPU cannot run a bundle; empty where it may. Sessions would open, and fail when they run.
 * @param {{features: {has: (name: string) => boolean}, limits: {maxStorageBufferBindingSize: number}}} adapter
 * @param {{precision: string, parity: {needs: Record<string, {largest_mb: number}>}}} contract
 */
export function unfit(adapter, contract) {
  if (contract.precision === "web" && !adapter.features.has("shader-f16"))
    return "The GPU of this device has no 16-bit arithmetic: the processor draws. A bundle exported with --precision web8 runs on this GPU.";
  const largest = Math.max(0, ...Object.values(contract.parity.needs).map((needs) => needs.largest_mb));
  const bound = adapter.limits.maxStorageBufferBindingSize / 1e6;
  if (largest <= bound) return "";
  return `The GPU of this device binds at most ${bound.toFixed(0)} MB at once, and this bundle needs ${largest.toFixed(0)}: the processor draws. Export with --precision web8 or a smaller --resolution.`;
}

/** @returns {Promise<any>} */
async function gpuAdapter() {
  try {
    return (await /** @type {any} */ (navigator).gpu?.requestAdapter()) ?? null;
  } catch {
    return null;
  }
}

/** Hide subgroups from ONNX Runtime where they are too narrow for its attention. */
function hideNarrowSubgroups() {
  const gpu = /** @type {any} */ (navigator).gpu;
  const request = gpu.requestAdapter.bind(gpu);
  gpu.requestAdapter = async (/** @type {any} */ options) => {
    const adapter = await request(options);
    if (adapter === null || (adapter.info?.subgroupMinSize ?? LEAST_LANES) >= LEAST_LANES) return adapter;
    const features = new Set([...adapter.features].filter((name) => !name.startsWith("subgroup")));
    return new Proxy(adapter, {
      get(target, name) {
        if (name === "features") return features;
        const value = target[name];
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };
}
