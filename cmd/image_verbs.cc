// SPDX-License-Identifier: Apache-2.0
// The verbs that fetch an image, or publish it or data about it.
#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/minisign.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/interrupt.h"
#include "cmd/print.h"
#include "cmd/rpull.h"
#include "cmd/signing_key.h"
#include "cmd/verb_handlers.h"
#include "image/index_signature.h"
#include "snap/containerd_client.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxProfileBytes = 4 << 20;
constexpr int kProfilePatienceMs = 120'000;

// Checks the path of an archive before any work is done for it.
absl::StatusOr<std::string> CheckArchive(const std::string& file) {
  IMAGEFS_ASSIGN_OR_RETURN(std::string path, AbsolutePath(file));
  struct stat st;
  const std::string above = ParentOf(path);
  if (stat(above.c_str(), &st) != 0) return ErrnoStatus(errno, above);
  if (!S_ISDIR(st.st_mode)) return ErrnoStatus(ENOTDIR, above);
  if (access(above.c_str(), W_OK) != 0) return ErrnoStatus(errno, above);
  if (stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return absl::FailedPreconditionError(StrCat(path, ": exists and is not a file"));
  }
  return path;
}

int ListAdded(ClientSession& session) {
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ListAddedReply reply;
  const absl::Status status = (*client)->ListAdded(&reply);
  if (status.ok())
    session.out().Print(session.json() ? AddedListJson(reply)
                                       : AddedListText(reply, time(nullptr)));
  return session.Finish(status);
}

// Gets the statement to sign from the daemon and adds the signatures to the request.
absl::Status SignIndex(ClientSession& session, DaemonClient& client,
                       std::vector<MinisignSecretKey> keys, IndexRequest& request) {
  if (keys.empty()) return absl::OkStatus();
  request.set_statement_only(true);
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result,
                           session.Transfer(client, request, &DaemonClient::Index));
  request.set_statement_only(false);
  const std::string& statement = result.index().statement();
  if (!IsIndexStatement(statement)) {
    return absl::FailedPreconditionError(
        "the daemon is of another version, which cannot sign; imagefs stop, and run this again");
  }
  const std::string comment = StrCat("imagefs index of ", result.image().manifest_digest());
  for (const MinisignSecretKey& key : keys) {
    IMAGEFS_ASSIGN_OR_RETURN(*request.add_signatures(), key.Sign(statement, comment));
  }
  request.set_statement_digest(Sha256Of(statement).ToString());
  // Use the image that was just resolved, even if its tag has changed by the second call.
  if (request.image().pull_policy() == ImageRequest::ALWAYS) {
    request.mutable_image()->set_pull_policy(ImageRequest::MISSING);
  }
  return absl::OkStatus();
}

// Makes one call for each request, and says what came of each. Those before a failed one stay.
template <typename Request>
int TransferEach(ClientSession& session, DaemonClient& client, const std::vector<Request>& requests,
                 absl::Status (DaemonClient::*call)(const Request&, const DaemonClient::OnEvent&),
                 const std::string& directory) {
  constexpr bool kExport = std::is_same_v<Request, ExportRequest>;
  const auto text = kExport ? ExportedText : ImportedText;
  std::vector<MountResult> results;
  for (const Request& request : requests) {
    absl::StatusOr<MountResult> result = session.Transfer(client, request, call);
    if (!result.ok()) {
      return session.Finish(
          result.status(),
          session.json() ? SharedStoreJson(results, directory, kExport, result.status()) : "");
    }
    if (!session.json()) session.out().Print(text(*result, directory));
    results.push_back(*std::move(result));
  }
  if (session.json())
    session.out().Print(SharedStoreJson(results, directory, kExport, absl::OkStatus()));
  return 0;
}

}  // namespace

int Run(ClientSession& session, const PullArgs& args) {
  const Clock::time_point begin = Clock::now();
  PullRequest request;
  if (!args.directory.empty()) {
    absl::StatusOr<std::string> directory = AbsolutePath(args.directory);
    if (!directory.ok()) return session.out().Fail(directory.status());
    request.set_directory(*std::move(directory));
  } else {
    absl::StatusOr<ImageRequest> image = session.MakeImageRequest(args.reference, args.image);
    if (!image.ok()) return session.Finish(image.status());
    *request.mutable_image() = *std::move(image);
  }
  request.set_progress(!args.quiet);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  absl::StatusOr<MountResult> result = session.Transfer(**client, request, &DaemonClient::Pull);
  if (!result.ok()) return session.Finish(result.status());
  session.PrintResult(*result, begin);
  return 0;
}

int Run(ClientSession& session, const RpullArgs& args) {
  absl::StatusOr<Reference> reference = session.ParseReference(args.reference);
  if (!reference.ok()) return session.out().Fail(reference.status());
  if (reference->transport != Reference::Transport::kRegistry) {
    return session.out().Fail(
        absl::InvalidArgumentError(StrCat(Printable(args.reference),
                                          " is not an image in a registry; import it into "
                                          "containerd by `ctr image import`")));
  }
  InspectRequest request;
  absl::StatusOr<ImageRequest> image = session.MakeImageRequest(args.reference, args.image);
  if (!image.ok()) return session.Finish(image.status());
  *request.mutable_image() = *std::move(image);
  // Do not start a daemon: containerd would not know it.
  auto client = session.Connect(/*start=*/false);
  if (!client.ok()) return session.Finish(client.status());
  InspectReply about;
  absl::Status status = (*client)->Inspect(request, &about);
  if (!status.ok()) return session.Finish(status);
  CancelSource cancel;
  {
    Interrupts::Scope scope(session.interrupts(), [&cancel] { cancel.Cancel(); });
    absl::StatusOr<std::unique_ptr<ContainerdClient>> containerd = ContainerdClient::Connect(
        {args.address, args.name_space, args.snapshotter}, cancel.token());
    status = containerd.status();
    if (status.ok()) {
      status = Rpull(**containerd, {reference->ToString(), args.snapshotter}, about,
                     [&](std::string_view line) {
                       if (!args.quiet) session.out().Note(StrCat(line, "\n"));
                     });
    }
  }
  if (!status.ok()) return session.Finish(status);
  const std::string name = reference->ToString();
  session.out().Print(session.json()
                          ? RpullJson(about, name, args.name_space, args.snapshotter)
                          : StrCat(name, " is in containerd's namespace ", args.name_space, "\n"));
  return 0;
}

int Run(ClientSession& session, const AddArgs& args) {
  if (args.list) return ListAdded(session);
  std::vector<AddRequest> requests;
  for (const std::string& text : args.references) {
    absl::StatusOr<ImageRequest> image = session.MakeImageRequest(text, args.image);
    if (!image.ok()) return session.Finish(image.status());
    AddRequest& request = requests.emplace_back();
    *request.mutable_image() = *std::move(image);
    request.set_name(args.name);
    request.set_progress(!args.quiet);
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ListAddedReply added;
  for (const AddRequest& request : requests) {
    absl::StatusOr<MountResult> result = session.Transfer(**client, request, &DaemonClient::Add);
    // Images added before the failed one stay.
    if (!result.ok()) {
      return session.Finish(result.status(),
                            session.json() ? AddedListJson(added, result.status()) : "");
    }
    if (!session.json()) session.out().Print(AddedText(*result));
    added.add_images()->Swap(result->mutable_added());
  }
  if (session.json()) session.out().Print(AddedListJson(added));
  return 0;
}

int Run(ClientSession& session, const ExportArgs& args) {
  absl::StatusOr<std::string> directory = AbsolutePath(args.directory);
  if (!directory.ok()) return session.out().Fail(directory.status());
  std::vector<ExportRequest> requests;
  for (const std::string& text : args.references) {
    absl::StatusOr<ImageRequest> image = session.MakeImageRequest(text, args.image);
    if (!image.ok()) return session.Finish(image.status());
    ExportRequest& request = requests.emplace_back();
    *request.mutable_image() = *std::move(image);
    request.set_directory(*directory);
    request.set_progress(!args.quiet);
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  return TransferEach(session, **client, requests, &DaemonClient::Export, *directory);
}

int Run(ClientSession& session, const ImportArgs& args) {
  absl::StatusOr<std::string> directory = AbsolutePath(args.directory);
  if (!directory.ok()) return session.out().Fail(directory.status());
  std::vector<std::string> references;
  for (const std::string& text : args.references) {
    absl::StatusOr<Reference> reference = session.ParseReference(text);
    if (!reference.ok()) return session.out().Fail(reference.status());
    references.push_back(reference->ToString());
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ListImagesReply there;
  if (absl::Status status = (*client)->ListShared(*directory, &there); !status.ok()) {
    return session.Finish(status);
  }
  std::vector<ImportRequest> requests;
  for (const Image& image : there.images()) {
    if (!references.empty() &&
        std::find(references.begin(), references.end(), image.reference()) == references.end()) {
      continue;
    }
    ImportRequest& request = requests.emplace_back();
    request.set_directory(*directory);
    request.set_reference(image.reference());
    request.set_platform(image.platform());
    request.set_progress(!args.quiet);
  }
  for (const std::string& reference : references) {
    const bool found = std::any_of(requests.begin(), requests.end(), [&](const auto& request) {
      return request.reference() == reference;
    });
    if (found) continue;
    return session.out().Fail(absl::NotFoundError(
        StrCat(*directory, " has no image ", reference,
               requests.empty() && there.images().empty() ? "; it is empty" : "")));
  }
  return TransferEach(session, **client, requests, &DaemonClient::Import, *directory);
}

int Run(ClientSession& session, const IndexArgs& args) {
  IndexRequest request;
  absl::StatusOr<ImageRequest> image = session.MakeImageRequest(args.reference, args.image);
  if (!image.ok()) return session.Finish(image.status());
  *request.mutable_image() = *std::move(image);
  request.set_push(args.push);
  request.set_profile(args.profile);
  request.set_progress(!args.quiet);
  if (!args.file.empty()) {
    absl::StatusOr<std::string> file = CheckArchive(args.file);
    if (!file.ok()) return session.out().Fail(file.status());
    request.set_file(*std::move(file));
  }
  if (!args.to.empty()) {
    absl::StatusOr<Reference> to = session.ParseReference(args.to);
    if (!to.ok()) return session.out().Fail(to.status());
    request.set_to(to->ToString());
    const absl::Status found =
        session.AddCredential(*to, args.image, request.mutable_to_credential());
    if (!found.ok()) return session.Finish(found);
  }
  // First, so that an unusable key is found before any work is done.
  std::vector<MinisignSecretKey> keys;
  for (const std::string& path : args.sign) {
    absl::StatusOr<MinisignSecretKey> key = ReadSigningKey(path, session.interrupts());
    if (!key.ok()) return session.Finish(key.status());
    keys.push_back(*std::move(key));
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  absl::Status status = SignIndex(session, **client, std::move(keys), request);
  if (!status.ok()) return session.Finish(status);
  absl::StatusOr<MountResult> result = session.Transfer(**client, request, &DaemonClient::Index);
  if (!result.ok()) return session.Finish(result.status());
  session.out().Print(session.json() ? IndexJson(*result) : IndexText(*result));
  return 0;
}

int Run(ClientSession& session, const ProfileArgs& args) {
  ProfileRequest request;
  absl::StatusOr<ImageRequest> image = session.MakeImageRequest(args.reference, args.image);
  if (!image.ok()) return session.Finish(image.status());
  *request.mutable_image() = *std::move(image);
  request.set_verb(args.action == "export" ? "show" : args.action);
  if (args.action == "import") {
    absl::StatusOr<std::string> text = ReadFile(args.file.empty() ? "/dev/stdin" : args.file,
                                                kMaxProfileBytes, kProfilePatienceMs);
    if (!text.ok()) return session.out().Fail(text.status());
    request.set_json(*std::move(text));
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ProfileReply reply;
  absl::Status status = (*client)->Profile(request, &reply);
  if (absl::IsNotFound(status)) {
    // The image is not local; ask its registry for the manifest digest.
    InspectRequest inspect;
    *inspect.mutable_image() = request.image();
    InspectReply about;
    status = (*client)->Inspect(inspect, &about);
    if (status.ok()) {
      absl::StatusOr<Reference> reference = Reference::Parse(request.image().reference());
      absl::StatusOr<Digest> manifest = Digest::Parse(about.image().manifest_digest());
      if (!reference.ok()) return session.out().Fail(reference.status());
      if (!manifest.ok()) return session.out().Fail(manifest.status());
      reference->digest = *manifest;
      request.mutable_image()->set_reference(reference->ToString());
      status = (*client)->Profile(request, &reply);
    }
  }
  if (!status.ok()) return session.Finish(status);
  if (args.action == "export" || (args.action == "show" && session.json())) {
    session.out().Print(reply.json() + "\n");
  } else if (args.action == "show") {
    session.out().Print(ProfileText(reply));
  } else if (session.json()) {
    session.out().Print(ProfileJson(reply));
  }
  return 0;
}

}  // namespace imagefs
