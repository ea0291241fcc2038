/** A process that is asked by lines and answers each with a line. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** A running process; what it writes besides its replies is passed over. */
export class LineProcess {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #isReply: (line: string) => boolean
  readonly #ended: Promise<unknown>
  #errors = ''

  /** @param command - the program and its arguments */
  constructor(command: readonly string[], cwd: string, isReply: (line: string) => boolean) {
    const [program = '', ...args] = command
    this.#child = spawn(program, args, { cwd })
    this.#ended = new Promise((resolve) => this.#child.once('close', resolve))
    this.#isReply = isReply
    const lines = createInterface({ input: this.#child.stdout })
    this.#lines = lines[Symbol.asyncIterator]()
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#errors += text))
    this.#child.once('error', (error) => {
      this.#errors += String(error)
      lines.close()
    })
    // A process that ended is noticed by its missing reply.
    this.#child.stdin.on('error', () => undefined)
  }

  /** What it wrote to stderr, and why it could not be started. */
  get errors(): string {
    return this.#errors
  }

  /** The next reply; undefined if it ended or could not be started. */
  async reply(): Promise<string | undefined> {
    for (;;) {
      const line = await this.#lines.next()
      if (line.done === true) {
        await this.#ended
        return undefined
      }
      if (this.#isReply(line.value)) return line.value
    }
  }

  /** Asks, and waits for the reply. @throws when there is none */
  async ask(question: string): Promise<string> {
    this.#child.stdin.write(`${question}\n`)
    const reply = await this.reply()
    if (reply !== undefined) return reply
    const name = this.#child.spawnargs.slice(0, 2).join(' ')
    throw new Error(`${name} ended when it was asked '${question}': ${this.#errors.trim()}`)
  }

  /** Ends its input, and waits until it has ended. */
  async stop(): Promise<void> {
    this.#child.stdin.end()
    await this.#ended
  }

  kill(): void {
    this.#child.kill()
  }
}
