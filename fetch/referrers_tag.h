// SPDX-License-Identifier: Apache-2.0
// Adds an artifact to the list under its subject's tag sha256-<hex>, which registries without the
// referrers API have instead of one. Others write to that list at the same time (cosign, oras, the
// other nodes of a fleet), each by reading it, adding an entry and writing all of it, so that any
// of them may drop what it had not read:
// - The list is written directly after it was read, on the condition that it is still the same
//   (If-Match), which some registries honour. One that refuses conditions is not sent any.
// - It is read again after that, and once more after a pause. If entries are missing then, ours or
//   some that were seen in it before, they are written again, for at most kMaxRounds.
// - An entry of others is written again only if the registry still has its manifest after a pause:
//   whoever deletes an artifact deletes its manifest as well.
// An entry that is written between our reading and our writing, a round trip apart, is lost unless
// the registry honours conditions or its writer looks again, as this one does.
//
// Runs on the HTTP client's thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "fetch/registry_call.h"

namespace imagefs {

class ReferrersTagUpdate : public std::enable_shared_from_this<ReferrersTagUpdate> {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;
  // `entry`: the artifact as in the list. `done` runs exactly once, with kCancelled if the token
  // fires first.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, const Digest& subject,
                  Descriptor entry, CancelToken cancel, Done done);

 private:
  ReferrersTagUpdate(std::shared_ptr<RegistryShared> shared,
                     std::shared_ptr<const RegistryEndpoint> endpoint, const Digest& subject,
                     Descriptor entry, CancelToken cancel, Done done);

  // An entry of somebody else that was in the list.
  struct Seen {
    std::string json, media_type;
    bool listed = false;  // in the list that was read last
    bool there = false;   // its manifest was, after it had vanished from the list
  };

  void Call(RegistryCall::Spec spec, void (ReferrersTagUpdate::*then)(HttpResponse));
  void After(int pauses, void (ReferrersTagUpdate::*then)());
  void Read();
  void OnList(HttpResponse response);
  void Note(const std::string& list);
  void Write(std::string list);
  void OnWritten(HttpResponse response);
  // Entries are missing, or the list changed before it was written.
  void Again();
  void CheckVanished();
  void CheckNext();
  void OnChecked(const absl::StatusOr<HttpResponse>& response);
  void Finish(absl::Status status);

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const std::string tag_;
  const Descriptor entry_;
  const CancelToken cancel_;
  GuardedDone<absl::Status> done_;

  std::map<std::string, Seen> others_;  // by digest
  std::deque<std::string> vanished_;    // digests to be checked
  std::string etag_;                    // of the list that was read last, "" = it has none
  bool exists_ = false;                 // that list
  bool conditional_ = true;             // the registry takes conditions
  std::optional<std::string> refused_;  // the list for which it said that it had changed
  std::string list_;                    // that was read last
  bool may_write_ = true;               // the next list is read in order to be changed
  bool written_ = false;                // at least once
  bool seen_once_ = false;              // all entries were there directly after writing
  int rounds_ = 0;
};

}  // namespace imagefs
