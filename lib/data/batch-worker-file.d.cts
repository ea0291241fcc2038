/** The absolute path of the loader's worker. */
declare const batchWorkerFile: string
export = batchWorkerFile
