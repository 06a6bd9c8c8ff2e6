// SPDX-License-Identifier: Apache-2.0
// The verbs that talk to a daemon. Each prints, and returns the exit status of docs/json.md. Used
// only by verbs.cc, which dispatches to them.
#pragma once

#include "cmd/cli.h"
#include "cmd/client_session.h"
#include "cmd/verbs.h"

namespace imagefs {

// mount_verb.cc. `program` is null in a program that cannot be a daemon. REQUIRES: it is not null
// with --foreground.
int Run(ClientSession& session, const MountArgs& args, const DaemonProgramParts* program);

// image_verbs.cc: verbs that fetch an image, or publish it or data about it.
int Run(ClientSession& session, const PullArgs& args);
int Run(ClientSession& session, const RpullArgs& args);
int Run(ClientSession& session, const AddArgs& args);
int Run(ClientSession& session, const ExportArgs& args);
int Run(ClientSession& session, const ImportArgs& args);
int Run(ClientSession& session, const IndexArgs& args);
int Run(ClientSession& session, const ProfileArgs& args);

// complete_verb.cc.
int Run(ClientSession& session, const CompleteArgs& args);

// file_verbs.cc: verbs that read files of an image without a mount.
int Run(ClientSession& session, const CatArgs& args);
int Run(ClientSession& session, const CopyArgs& args);
int Run(ClientSession& session, const ListFilesArgs& args);
int Run(ClientSession& session, const ExportTreeArgs& args);
int Run(ClientSession& session, const DiffArgs& args);

// daemon_verbs.cc: one request to the daemon, and its reply.
int Run(ClientSession& session, const UmountArgs& args);
int Run(ClientSession& session, const LsArgs& args);
int Run(ClientSession& session, const ImagesArgs& args);
int Run(ClientSession& session, const InspectArgs& args);
int Run(ClientSession& session, const RmArgs& args);
int Run(ClientSession& session, const EvictArgs& args);
int Run(ClientSession& session, const DropArgs& args);
int Run(ClientSession& session, const CheckArgs& args);
int Run(ClientSession& session, const StatusArgs& args);
int Run(ClientSession& session, const PinArgs& args);
int Run(ClientSession& session, const UnpinArgs& args);
int Run(ClientSession& session, const DfArgs& args);
int Run(ClientSession& session, const PruneArgs& args);
int Run(ClientSession& session, const LogLevelArgs& args);
int Run(ClientSession& session, const StopArgs& args);

}  // namespace imagefs
