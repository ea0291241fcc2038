/**
 * Faults of the system under training: sudden death, full and vanishing disks, no memory, no threads.
 *
 *     npm run test:faults -- [--quick] [--seed N]
 */
import { fillDisks, refuseWriting, removeFolders } from './file-faults.js'
import { killTraining } from './kills.js'
import { failAllocations, failDriverCalls, limitMemory, refuseThreads } from './resource-faults.js'
import { runParts } from './tally.js'

await runParts({
  'disks that fill up': fillDisks,
  'folders that are removed while a run lasts': removeFolders,
  'file systems that are read-only': refuseWriting,
  'allocations that fail, each in turn': failAllocations,
  'driver calls that fail on the emulated GPU, each in turn': failDriverCalls,
  'address space that runs out': limitMemory,
  'threads that the system refuses': refuseThreads,
  'kill -9 at random moments of training with checkpoints': killTraining,
})
