declare module 'node-gyp-build' {
  interface Load {
    (folder: string): unknown
    /** The path of the addon that would be loaded; throws if there is none. */
    resolve(folder: string): string
  }
  const load: Load
  export default load
}
