/** The absolute path of the folder that holds softmoe's package.json. */
declare const packageRoot: string
export = packageRoot
