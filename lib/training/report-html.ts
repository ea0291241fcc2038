/** HTML text that cannot be broken by the names in it. */

/** Markup that is safe to insert as it stands. */
export class Html {
  constructor(readonly text: string) {}
}

/** What may stand in a template: text is escaped, markup and lists of it are inserted. */
export type HtmlPart = string | number | Html | readonly Html[]

function escape(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  }
  return text.replace(/[&<>"']/g, (character) => entities[character])
}

function insert(part: HtmlPart): string {
  if (part instanceof Html) return part.text
  if (typeof part === 'string' || typeof part === 'number') return escape(String(part))
  return part.map(({ text }) => text).join('')
}

/** Tag for template literals: escapes every inserted text. */
export function html(parts: TemplateStringsArray, ...inserted: readonly HtmlPart[]): Html {
  return new Html(parts.reduce((text, part, index) => text + insert(inserted[index - 1]) + part))
}

/** JSON for a script element: `<` cannot close it. */
export function scriptJson(value: unknown): Html {
  return new Html(JSON.stringify(value).replace(/</g, '\\u003c'))
}

/** 0.8312 → `83.1 %`. */
export function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`
}
