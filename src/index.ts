// The public names, nothing else.

export type { ReceiveCounters, SendCounters } from './channel/counters.ts'
export type { RelayPortCounters } from './channel/relay-ports.ts'
export { MigrationDestination } from './destination.ts'
export { DirtyLog, type DirtyTracking } from './guest/dirty-tracker.ts'
export {
  GuestMemory,
  type RamBlock,
  type RamBlockOptions,
  type WasmMemory,
} from './guest/guest-memory.ts'
export { ERROR_CODES, type ErrorCode, type ErrorDetails, MultifdError } from './kit/errors.ts'
export type { MigrationDestinationOptions } from './migrate/destination-options.ts'
export type { ZeroCopyMode } from './migrate/flush-control.ts'
export { decideBySignals, type Undecided } from './migrate/operator-signals.ts'
export type { Migration, MigrationParameters } from './migrate/outgoing-session.ts'
export type { Owner } from './migrate/ownership.ts'
export type { DeviceProgress } from './migrate/passes.ts'
export type {
  ChannelProgress,
  ChannelReport,
  DowntimeParts,
  IncomingResult,
  MigrationProgress,
  MigrationResult,
} from './migrate/progress.ts'
export type { SaveStateHandler, StatePart } from './migrate/save-state.ts'
export type { MigrationSourceOptions } from './migrate/source-options.ts'
export type { MigrationStatus } from './migrate/status.ts'
export type { Device, Vmm } from './migrate/vmm.ts'
export type { RelayCounts, RelayProgress, RelayResult } from './relay/progress.ts'
export { type Relay, relay } from './relay/relay.ts'
export type { RelayCompression, RelayOptions } from './relay/relay-options.ts'
export type { FlushThresholds } from './schedule/flush-policy.ts'
export type {
  SnapshotDevicesFile,
  SnapshotFile,
  SnapshotHash,
  SnapshotManifest,
  SnapshotRamFile,
} from './snapshot/manifest.ts'
export type { ReceiveSnapshotOptions } from './snapshot/receive-options.ts'
export { type Reception, receiveSnapshot } from './snapshot/receive-snapshot.ts'
export type { ReceptionProgress, ReceptionResult, ReceptionStatus } from './snapshot/reception.ts'
export type { SendSnapshotOptions } from './snapshot/send-options.ts'
export type {
  DestinationProgress,
  FailedSend,
  SendOutcome,
  SendProgress,
  SendStatus,
  SentSnapshot,
} from './snapshot/send-progress.ts'
export { type SnapshotSending, sendSnapshot } from './snapshot/send-snapshot.ts'
export {
  readManifest,
  type VerifiedSnapshot,
  verifySnapshot,
} from './snapshot/snapshot-directory.ts'
export { MigrationSource } from './source.ts'
