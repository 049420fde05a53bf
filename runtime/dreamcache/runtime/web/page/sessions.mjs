/**
 * ONNX Runtime Web, opened and closed: one graph at a time, as the runner does it (session.py).
 *
 * @typedef {import("./bundle.mjs").BundleFiles} BundleFiles
 * @typedef {import("./bundle.mjs").GraphSpec} GraphSpec
 * @typedef {import("./engines.mjs").Engine} Engine
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
    const results = await this.session.run(feeds, names).catch((/** @type {unknown} */ error) => {
      throw new Error(explained(error, this.spec.file));
    });
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
    /** @type {(name: string) => void} told which graph is used now */
    this.begin = () => {};
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
    lowerMemoryWhereRefused();
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
    const graph = await this.files.bytes(spec.file);
    const options = { executionProviders: [this.engine.provider], externalData };
    try {
      return new Session(this.ort, await this.ort.InferenceSession.create(graph, options), spec);
    } catch (error) {
      throw new Error(explained(error, name));
    }
  }

  /**
   * Open a graph, use it, and close it unless graphs are kept.
   * @template T
   * @param {string} name
   * @param {(session: Session) => Promise<T>} use
   * @returns {Promise<T>}
   */
  async with(name, use) {
    this.begin(name);
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

/**
 * Ask for less shared memory where a browser refuses as much as ONNX Runtime declares (4 GB, which some Safari does).
 * It is the most that may ever be used, not what is taken.
 */
export function lowerMemoryWhereRefused() {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = new Proxy(Memory, {
    construct(target, [asked]) {
      for (let most = asked.maximum; ; most /= 2) {
        try {
          return new target(most === undefined ? asked : { ...asked, maximum: most });
        } catch (error) {
          if (most === undefined || most / 2 < asked.initial) throw error;
        }
      }
    },
  });
}

/**
 * What a person can do about an error of ONNX Runtime, in whose words it ends.
 * @param {unknown} error
 * @param {string} graph
 */
export function explained(error, graph) {
  const said = error instanceof Error ? error.message : String(error);
  if (/bad_alloc|out of memory|allocation failed|could not allocate|not enough memory/i.test(said) || /^\d+$/.test(said))
    return `The browser has too little memory for ${graph}. Close other tabs and apps, or take a smaller bundle. (${said})`;
  if (/integer overflow|SafeInt/i.test(said))
    return `${graph} is too large for a browser's engine. Take a bundle of a smaller --resolution, or draw at the desk. (${said})`;
  if (/device.{0,20}lost|lost.{0,20}device/i.test(said))
    return `The GPU gave up at ${graph}. Reload this page; if it happens again, choose the processor under More. (${said})`;
  return `${graph}: ${said}`;
}
