/** The absolute path of the folder that holds softmoe's package.json; null if there is none above this file. */
declare const packageRoot: string | null
export = packageRoot
