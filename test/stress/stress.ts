/**
 * The package under load: threads and processes that end at random, and models that share a device.
 *
 *     npm run test:stress -- [--quick] [--seed N]
 */
import { exitInEveryWay } from './exits.js'
import { runParts } from './tally.js'
import { trainTwoModels } from './two-models.js'
import { terminateWorkers } from './workers.js'

await runParts({
  'two models that train at once on one device': trainTwoModels,
  'worker threads that train and are terminated at random': terminateWorkers,
  'processes that end with work in flight': exitInEveryWay,
})
