// Stream capture: while a stream is captured, what would be queued on it becomes a node of a graph.
#pragma once

#include "driver.h"

namespace softmoe::emulator {

// Queues a piece of work, or adds it to the graph of the stream's capture. `run` is called without the lock.
void enqueue(Driver& driver, Stream& stream, const std::string& what, std::function<cuda::CUresult()> run);

// Throws STREAM_CAPTURE_UNSUPPORTED, and spoils the capture, when the calling thread must not make a call
// that waits or that acts at once: during a global capture of any thread, or a thread-local one of its own.
void forbidWhileCapturing(Driver& driver);
// The same for a wait on, or a query of, one stream.
void forbidWhileCaptured(Stream& stream);

void recordInCapture(Stream& stream, Event& event);
void waitInCapture(Driver& driver, const std::shared_ptr<Stream>& stream, const Event& event);

void beginCapture(Driver& driver, Stream& stream, cuda::CUstreamCaptureMode mode);
// Throws STREAM_CAPTURE_UNMATCHED, _INVALIDATED, _UNJOINED, _WRONG_THREAD.
std::shared_ptr<Graph> endCapture(Driver& driver, Stream& stream);

}  // namespace softmoe::emulator
