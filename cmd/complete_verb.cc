// SPDX-License-Identifier: Apache-2.0
// The verb `__complete`, where it takes the names that the daemon knows.
#include <chrono>
#include <memory>

#include "absl/status/status.h"
#include "base/text.h"
#include "cmd/rendezvous.h"
#include "cmd/verb_handlers.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent

// Somebody waits at a prompt.
constexpr auto kPatience = std::chrono::seconds(1);

void AddNames(DaemonClient& client, Completion& out) {
  switch (out.names) {
    case NamesOf::kNothing:
      return;
    case NamesOf::kMounts: {
      ListMountsReply reply;
      if (!client.ListMounts(&reply).ok()) return;
      for (const control::v1::Mount& mount : reply.mounts()) {
        out.Add(StrCat(out.prefix, mount.directory()), mount.reference());
      }
      return;
    }
    case NamesOf::kImages: {
      ListImagesReply reply;
      if (!client.ListImages(/*all=*/false, &reply).ok()) return;
      for (const Image& image : reply.images()) {
        out.Add(StrCat(out.prefix, image.reference()),
                StrCat(image.platform(), ", ", image.state()));
      }
      return;
    }
    case NamesOf::kAdded: {
      ListAddedReply reply;
      if (!client.ListAdded(&reply).ok()) return;
      for (const auto& image : reply.images()) {
        out.Add(StrCat(out.prefix, image.name()), image.reference());
      }
      return;
    }
  }
}

}  // namespace

int Run(ClientSession& session, const CompleteArgs& args) {
  Completion out = args.completion;
  // Only a daemon that holds the store is asked: systemd would start one for a connection.
  if (absl::IsFailedPrecondition(ExplainNoDaemon(session.paths()))) {
    if (auto client = session.ConnectToAny(kPatience); client.ok()) AddNames(**client, out);
  }
  session.out().Print(out.Text());
  return 0;
}

}  // namespace imagefs
