// SPDX-License-Identifier: Apache-2.0
// The verbs that run programs of an image. Used only by verbs.cc, which dispatches to them.
#pragma once

#include <string_view>

#include "cmd/cli.h"
#include "cmd/client_session.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

// `run` and `shell`, run_verb.cc. Returns the exit status of the program, or kCannotRun. REQUIRES:
// this process has one thread.
int RunProgramOf(const RunArgs& args, const GlobalOptions& global, const Paths& paths,
                 std::string_view version, Output& out);

// bundle_verb.cc.
int Run(ClientSession& session, const BundleArgs& args);

}  // namespace imagefs
