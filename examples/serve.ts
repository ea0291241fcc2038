/**
 * Serves a trained model: `npx tsx examples/serve.ts runs/latest`, then
 * `curl --data-binary @picture.png http://localhost:8080`.
 */
import { randomUUID } from 'node:crypto'
import { rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { classifyFiles, loadModel, SoftMoEError } from 'softmoe'

const MAX_BYTES = 16 * 2 ** 20
const trained = await loadModel(process.argv[2] ?? 'runs/latest')

async function classify(body: Buffer): Promise<object> {
  const path = join(tmpdir(), `${randomUUID()}.png`)
  try {
    await writeFile(path, body)
    const [classes] = await classifyFiles(trained, [path])
    return classes.slice(0, 3)
  } finally {
    await rm(path, { force: true })
  }
}

createServer((request, response) => {
  const chunks: Buffer[] = []
  let bytes = 0
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > MAX_BYTES) request.destroy()
    else chunks.push(chunk)
  })
  request.on('end', () => {
    classify(Buffer.concat(chunks)).then(
      (classes) => response.end(`${JSON.stringify(classes)}\n`),
      (error: unknown) => {
        response.statusCode = SoftMoEError.is(error) ? 400 : 500
        response.end(`${error instanceof Error ? error.message : String(error)}\n`)
      },
    )
  })
}).listen(8080, () => {
  console.log('listening on http://localhost:8080')
})
