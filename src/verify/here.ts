/** Programs and modules beside this one, among the sources as in what is built from them. */
import { extname } from "node:path"

/** The URL of a module of this folder. */
export const moduleOf = (name: string): URL => new URL(`./${name}${extname(import.meta.url)}`, import.meta.url)
