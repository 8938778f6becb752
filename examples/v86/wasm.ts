// The few WebAssembly names the example uses. TypeScript declares them only together with a
// browser's whole DOM, which a Node program must not see.

/** A WebAssembly.Memory. `buffer` is replaced whenever the memory grows. */
export type WasmMemory = { readonly buffer: ArrayBuffer }

/** A compiled module; opaque. */
export type WasmModule = { readonly wasmModule: unique symbol }

type WasmApi = {
  compile(bytes: Uint8Array): Promise<WasmModule>
  instantiate(module: WasmModule, imports: object): Promise<{ exports: unknown }>
}

export const wasm = (globalThis as unknown as { WebAssembly: WasmApi }).WebAssembly
