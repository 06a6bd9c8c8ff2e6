#include "cmd/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <google/protobuf/stubs/logging.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/minisign.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/client.h"
#include "cmd/config.h"
#include "cmd/daemon.h"
#include "cmd/interrupt.h"
#include "cmd/options.h"
#include "cmd/output.h"
#include "cmd/print.h"
#include "cmd/progress.h"
#include "cmd/rendezvous.h"
#include "cmd/rpull.h"
#include "cmd/signing_key.h"
#include "fetch/credentials.h"
#include "fs/mount_syscalls.h"
#include "image/index_signature.h"
#include "image/reference.h"
#include "proto/control.pb.h"
#include "snap/containerd_client.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent
using Clock = std::chrono::steady_clock;

constexpr int kStopTimeoutMs = 60'000;
constexpr auto kSilence = std::chrono::milliseconds(2000);  // before a word is said
constexpr auto kPatience = std::chrono::seconds(10);        // of status and stop
constexpr uint64_t kMaxProfileBytes = 4 << 20;
constexpr int kProfilePatienceMs = 120'000;
constexpr int kDamageExit = 3;  // of `check`

// A reference as a daemon understands it, which has another working directory.
absl::StatusOr<Reference> ParseAbsolute(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(text));
  if (reference.transport == Reference::Transport::kRegistry) return reference;
  std::string directory = "/";
  if (!reference.path.starts_with('/')) {
    IMAGEFS_ASSIGN_OR_RETURN(directory, AbsolutePath("."));
  }
  reference.MakeAbsolute(directory);
  return reference;
}

// The file that an archive is to be written to, before any work is done for it.
absl::StatusOr<std::string> CheckArchive(const std::string& file) {
  IMAGEFS_ASSIGN_OR_RETURN(std::string path, AbsolutePath(file));
  struct stat st;
  const std::string above = ParentOf(path);
  if (stat(above.c_str(), &st) != 0) return ErrnoStatus(errno, above);
  if (!S_ISDIR(st.st_mode)) return ErrnoStatus(ENOTDIR, above);
  if (access(above.c_str(), W_OK) != 0) return ErrnoStatus(errno, above);
  if (stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return absl::FailedPreconditionError(StrCat(path, ": is there, and no file"));
  }
  return path;
}

// Whether autofs waits for a mount there. The kernel lets only the process group of its manager
// pass meanwhile: mount(8) as systemd starts it, and so the helper, but never the daemon.
bool IsAutomount(const std::string& directory) {
  struct statfs found;
  return statfs(directory.c_str(), &found) == 0 && found.f_type == AUTOFS_SUPER_MAGIC;
}

// The arguments and surroundings of one verb.
class Session {
 public:
  Session(const Command& command, Paths paths, std::string_view version,
          const DaemonProgramParts* daemon, Output& out)
      : command_(command),
        paths_(std::move(paths)),
        version_(version),
        daemon_(daemon),
        out_(out) {}

  int Mount();
  int Pull();
  int Umount();
  int Ls();
  int Images();
  int Inspect();
  int Rpull();
  int Rm() { return RemoveBy(&DaemonClient::Remove); }
  int Evict() { return RemoveBy(&DaemonClient::Evict); }
  int Add();
  int ListAdded();
  int Drop();
  int GetStatus();
  int MountStatus();
  int Index();
  int Profile();
  int Check();
  int Stop();

 private:
  absl::StatusOr<std::unique_ptr<DaemonClient>> Connect(bool start) {
    return DaemonClient::Connect(ClientOptions(start), interrupts_);
  }
  // A client that is content with whatever daemon there is, and does not wait for long.
  absl::StatusOr<std::unique_ptr<DaemonClient>> ConnectToAny() {
    DaemonClient::Options options = ClientOptions(/*start=*/false);
    options.same_settings = false;
    options.patience = kPatience;
    return DaemonClient::Connect(std::move(options), interrupts_);
  }
  DaemonClient::Options ClientOptions(bool start) {
    DaemonClient::Options options;
    options.paths = paths_;
    options.start = start;
    options.log_level = command_.log_level;
    options.ca_file = command_.ca_file;
    options.config = command_.config;
    options.say = [this](std::string_view line) { out_.Note(StrCat("imagefs: ", line, "\n")); };
    return options;
  }
  // `object` as Output::Fail has it.
  int Finish(const absl::Status& status, std::string_view object = "") {
    if (status.ok()) return 0;
    if (!interrupts_.interrupted()) return out_.Fail(status, object);
    if (command_.json) out_.Print(ErrorJson(absl::CancelledError("interrupted")));
    return kInterruptedExit;
  }
  absl::StatusOr<ImageRequest> MakeImageRequest() { return MakeImageRequest(command_.reference); }
  absl::StatusOr<ImageRequest> MakeImageRequest(const std::string& text);
  void AddCredential(const Reference& reference, control::v1::Credential* out);
  absl::Status AddReferences(google::protobuf::RepeatedPtrField<std::string>* out) const;
  int RemoveBy(absl::Status (DaemonClient::*call)(const RemoveRequest&, RemoveReply*));
  // `call` is Mount or Pull of the client.
  template <typename Request>
  absl::StatusOr<MountResult> Transfer(
      DaemonClient& client, const Request& request,
      absl::Status (DaemonClient::*call)(const Request&, const DaemonClient::OnEvent&));
  absl::StatusOr<MountRequest> MakeMountRequest();
  absl::Status SignIndex(DaemonClient& client, std::vector<MinisignSecretKey> keys,
                         IndexRequest& request);
  bool ShowProgress() const { return !command_.quiet; }
  void PrintResult(const MountResult& result, Clock::time_point begin);
  // Whether the directory shows that image as it was asked for.
  static bool MountedAlready(DaemonClient& client, const MountRequest& request);
  int MountInForeground(const MountRequest& request, Clock::time_point begin);
  absl::Status MountAndWait(const MountRequest& request, Clock::time_point begin);
  void WaitUntilUnmounted(const std::string& directory);

  const Command& command_;
  const Paths paths_;
  const std::string version_;
  const DaemonProgramParts* const daemon_;
  Output& out_;
  Interrupts interrupts_;
  std::string credential_trouble_;
};

// Asks the client's own files for credentials: the daemon never reads the caller's home.
absl::StatusOr<ImageRequest> Session::MakeImageRequest(const std::string& text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, ParseAbsolute(text));
  ImageRequest request;
  request.set_reference(reference.ToString());
  request.set_platform(command_.platform);
  request.set_plain_http(command_.plain_http);
  request.set_skip_tls_verify(command_.skip_tls_verify);
  request.set_pull_policy(command_.pull == "always"  ? ImageRequest::ALWAYS
                          : command_.pull == "never" ? ImageRequest::NEVER
                                                     : ImageRequest::MISSING);
  if (reference.transport == Reference::Transport::kRegistry && command_.pull != "never") {
    AddCredential(reference, request.mutable_credential());
  }
  return request;
}

void Session::AddCredential(const Reference& reference, control::v1::Credential* out) {
  FoundCredential found = FindCredential(reference, CredentialOptions::FromEnvironment());
  const auto& credential = found.credential;
  out->set_username(credential.username);
  out->set_password(credential.password.c_str(), credential.password.size());
  out->set_identity_token(credential.identity_token.c_str(), credential.identity_token.size());
  out->set_trouble(found.trouble);
  if (!found.trouble.empty()) credential_trouble_ = std::move(found.trouble);
}

// The operands, as the daemon understands them.
absl::Status Session::AddReferences(google::protobuf::RepeatedPtrField<std::string>* out) const {
  for (const std::string& text : command_.operands) {
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, ParseAbsolute(text));
    *out->Add() = reference.ToString();
  }
  return absl::OkStatus();
}

absl::StatusOr<MountRequest> Session::MakeMountRequest() {
  MountRequest request;
  IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_image(), MakeImageRequest());
  IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_directory(), AbsolutePath(command_.directory));
  request.set_mode(command_.mode);
  request.set_writable(command_.writable);
  if (!command_.upper.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_upper(), AbsolutePath(command_.upper));
  }
  request.set_id_map(command_.id_map);
  request.set_context(command_.context);
  request.set_suid(command_.suid);
  request.set_dev(command_.dev);
  request.set_noexec(command_.noexec);
  request.set_eager(command_.eager);
  request.set_deadline_seconds(command_.deadline_seconds);
  request.set_this_boot_only(command_.for_mount8);
  request.set_progress(ShowProgress());
  return request;
}

template <typename Request>
absl::StatusOr<MountResult> Session::Transfer(
    DaemonClient& client, const Request& request,
    absl::Status (DaemonClient::*call)(const Request&, const DaemonClient::OnEvent&)) {
  ProgressRenderer::Options options;
  winsize size{};
  if (isatty(STDERR_FILENO) != 0 && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) {
    options.terminal = true;
    if (size.ws_col > 0) options.columns = size.ws_col;
    if (size.ws_row > 0) options.rows = size.ws_row;
  }
  ProgressRenderer renderer(options);
  MountResult result;
  const absl::Status status = (client.*call)(request, [&](const MountEvent& event) {
    if (event.has_result()) {
      result = event.result();
    } else {
      out_.Note(renderer.Update(event.progress(), Clock::now().time_since_epoch()));
    }
  });
  out_.Note(renderer.Finish());
  IMAGEFS_RETURN_IF_ERROR(status);
  if (!credential_trouble_.empty()) {
    out_.Note(StrCat("imagefs: warning: no credentials were sent: ",
                     Printable(credential_trouble_, 1000), "\n"));
  }
  return result;
}

void Session::PrintResult(const MountResult& result, Clock::time_point begin) {
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  out_.Print(command_.json ? MountJson(result) : MountText(result, elapsed.count()));
}

int Session::Mount() {
  const Clock::time_point begin = Clock::now();
  absl::StatusOr<MountRequest> request = MakeMountRequest();
  if (!request.ok()) return out_.Fail(request.status());
  if (command_.foreground) return MountInForeground(*request, begin);
  if (command_.for_mount8 && IsAutomount(request->directory())) {
    return out_.Fail(absl::FailedPreconditionError(StrCat(
        request->directory(), ": an automount point, where the daemon would wait for itself; ",
        "leave out x-systemd.automount")));
  }
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  absl::StatusOr<MountResult> result = Transfer(**client, *request, &DaemonClient::Mount);
  if (command_.for_mount8 && absl::IsAlreadyExists(result.status()) &&
      MountedAlready(**client, *request)) {
    return 0;
  }
  if (!result.ok()) return Finish(result.status());
  if (!command_.for_mount8 || !command_.quiet) PrintResult(*result, begin);
  return 0;
}

bool Session::MountedAlready(DaemonClient& client, const MountRequest& request) {
  ListMountsReply reply;
  char resolved[PATH_MAX];
  if (realpath(request.directory().c_str(), resolved) == nullptr) return false;
  if (!client.ListMounts(&reply).ok()) return false;
  for (const control::v1::Mount& mount : reply.mounts()) {
    if (mount.directory() != resolved) continue;
    return mount.reference() == request.image().reference() &&
           mount.writable() == request.writable();
  }
  return false;
}

int Session::Pull() {
  const Clock::time_point begin = Clock::now();
  PullRequest request;
  if (!command_.directory.empty()) {
    absl::StatusOr<std::string> directory = AbsolutePath(command_.directory);
    if (!directory.ok()) return out_.Fail(directory.status());
    request.set_directory(*std::move(directory));
  } else {
    absl::StatusOr<ImageRequest> image = MakeImageRequest();
    if (!image.ok()) return out_.Fail(image.status());
    *request.mutable_image() = *std::move(image);
  }
  request.set_progress(ShowProgress());
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  absl::StatusOr<MountResult> result = Transfer(**client, request, &DaemonClient::Pull);
  if (!result.ok()) return Finish(result.status());
  PrintResult(*result, begin);
  return 0;
}

// Without a daemon this process is it for as long as the mount lives.
int Session::MountInForeground(const MountRequest& request, Clock::time_point begin) {
  std::unique_ptr<Daemon> daemon;
  if (absl::StatusOr<Fd> other = ConnectDaemon(paths_); absl::IsNotFound(other.status())) {
    Daemon::Options options;
    options.paths = paths_;
    options.version = version_;
    options.ca_file = command_.ca_file;
    options.log_level = command_.log_level.empty() ? "warning" : command_.log_level;
    SetLogLevel(ParseLogLevel(options.log_level));
    options.config_file = ConfigFile(command_.config);
    absl::StatusOr<Config> config = LoadConfig(command_.config);
    if (!config.ok()) return out_.Fail(config.status());
    options.config = *std::move(config);
    options.handle_signals = false;
    absl::StatusOr<std::unique_ptr<Daemon>> started = daemon_->start(std::move(options));
    if (!started.ok()) return Finish(started.status());
    daemon = *std::move(started);
  }
  std::thread serving;
  if (daemon != nullptr) serving = std::thread([&daemon] { daemon->Serve(); });
  const absl::Status status = MountAndWait(request, begin);
  if (daemon != nullptr) {
    // Other mounts of this store come back with the next daemon.
    daemon->RequestStop(/*forget_mounts=*/false);
    serving.join();
  }
  return Finish(status);
}

absl::Status Session::MountAndWait(const MountRequest& request, Clock::time_point begin) {
  IMAGEFS_ASSIGN_OR_RETURN(auto client, Connect(/*start=*/false));
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result,
                           Transfer(*client, request, &DaemonClient::Mount));
  PrintResult(result, begin);
  WaitUntilUnmounted(result.mount().directory());
  interrupts_.Forget();
  UnmountRequest unmount;
  unmount.add_directories(result.mount().directory());
  UnmountReply reply;
  IMAGEFS_RETURN_IF_ERROR(client->Unmount(unmount, &reply));
  if (reply.failures().empty()) return absl::OkStatus();
  // In use, or gone already: then there is nothing to be detached.
  unmount.set_lazy(true);
  return client->Unmount(unmount, &reply);
}

// Returns at an interrupt, or when somebody else unmounted the directory: the kernel reports a
// change of the mount table as an exceptional condition of mountinfo.
void Session::WaitUntilUnmounted(const std::string& directory) {
  Fd wake(eventfd(0, EFD_CLOEXEC));
  absl::StatusOr<Fd> mountinfo = OpenFile("/proc/self/mountinfo", O_RDONLY);
  if (!wake.valid() || !mountinfo.ok()) return;
  Interrupts::Scope scope(interrupts_, [&wake] {
    const uint64_t one = 1;
    (void)!write(wake.get(), &one, sizeof(one));
  });
  while (true) {
    absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
    if (mounts.ok() && FindMountAt(*mounts, directory) == nullptr) return;
    pollfd fds[] = {{wake.get(), POLLIN, 0}, {mountinfo->get(), POLLPRI, 0}};
    if (poll(fds, std::size(fds), -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
  }
}

int Session::Umount() {
  UnmountRequest request;
  for (const std::string& directory : command_.operands) {
    absl::StatusOr<std::string> path = AbsolutePath(directory);
    if (!path.ok()) return out_.Fail(path.status());
    request.add_directories(*std::move(path));
  }
  request.set_all(command_.all);
  request.set_lazy(command_.lazy);
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  UnmountReply reply;
  const absl::Status status = (*client)->Unmount(request, &reply);
  if (!status.ok()) return Finish(status);
  if (command_.json) out_.Print(UnmountJson(reply));
  for (const UnmountReply::Failure& failure : reply.failures()) {
    out_.Note(StrCat("imagefs: ", OneLine(Shortened(failure.message())), "\n"));
  }
  return reply.failures().empty() ? 0 : 1;
}

int Session::Ls() {
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  ListMountsReply reply;
  const absl::Status status = (*client)->ListMounts(&reply);
  if (status.ok()) out_.Print(command_.json ? MountsJson(reply) : MountsText(reply, time(nullptr)));
  return Finish(status);
}

int Session::Images() {
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  ListImagesReply reply;
  const absl::Status status = (*client)->ListImages(&reply);
  if (status.ok()) out_.Print(command_.json ? ImagesJson(reply) : ImagesText(reply, time(nullptr)));
  return Finish(status);
}

int Session::Inspect() {
  absl::StatusOr<ImageRequest> image = MakeImageRequest();
  if (!image.ok()) return out_.Fail(image.status());
  InspectRequest request;
  *request.mutable_image() = *std::move(image);
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  InspectReply reply;
  const absl::Status status = (*client)->Inspect(request, &reply);
  if (status.ok()) out_.Print(command_.json ? InspectJson(reply) : InspectText(reply));
  return Finish(status);
}

int Session::Rpull() {
  absl::StatusOr<Reference> reference = Reference::Parse(command_.reference);
  if (!reference.ok()) return out_.Fail(reference.status());
  if (reference->transport != Reference::Transport::kRegistry) {
    return out_.Fail(
        absl::InvalidArgumentError(StrCat(Printable(command_.reference),
                                          " is no image of a registry; containerd can only be "
                                          "given those, import others by `ctr image import`")));
  }
  InspectRequest request;
  absl::StatusOr<ImageRequest> image = MakeImageRequest();
  if (!image.ok()) return out_.Fail(image.status());
  *request.mutable_image() = *std::move(image);
  // Another daemon than the one that containerd knows would help nobody.
  auto client = Connect(/*start=*/false);
  if (!client.ok()) return Finish(client.status());
  InspectReply about;
  absl::Status status = (*client)->Inspect(request, &about);
  if (!status.ok()) return Finish(status);
  CancelSource cancel;
  {
    Interrupts::Scope scope(interrupts_, [&cancel] { cancel.Cancel(); });
    absl::StatusOr<std::unique_ptr<ContainerdClient>> containerd = ContainerdClient::Connect(
        {command_.address, command_.name_space, command_.snapshotter}, cancel.token());
    status = containerd.status();
    if (status.ok()) {
      status = imagefs::Rpull(**containerd, {reference->ToString(), command_.snapshotter}, about,
                              [this](std::string_view line) {
                                if (ShowProgress()) out_.Note(StrCat(line, "\n"));
                              });
    }
  }
  if (!status.ok()) return Finish(status);
  const std::string name = reference->ToString();
  out_.Print(command_.json
                 ? RpullJson(about, name, command_.name_space, command_.snapshotter)
                 : StrCat(name, " is in containerd's namespace ", command_.name_space, "\n"));
  return 0;
}

int Session::Add() {
  if (command_.list) return ListAdded();
  std::vector<AddRequest> requests;
  for (const std::string& text : command_.operands) {
    absl::StatusOr<ImageRequest> image = MakeImageRequest(text);
    if (!image.ok()) return out_.Fail(image.status());
    AddRequest& request = requests.emplace_back();
    *request.mutable_image() = *std::move(image);
    request.set_name(command_.name);
    request.set_progress(ShowProgress());
  }
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  ListAddedReply added;
  for (const AddRequest& request : requests) {
    absl::StatusOr<MountResult> result = Transfer(**client, request, &DaemonClient::Add);
    // What was added before the one that failed stays.
    if (!result.ok()) {
      return Finish(result.status(), command_.json ? AddedListJson(added, result.status()) : "");
    }
    if (!command_.json) out_.Print(AddedText(*result));
    added.add_images()->Swap(result->mutable_added());
  }
  if (command_.json) out_.Print(AddedListJson(added));
  return 0;
}

int Session::ListAdded() {
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  ListAddedReply reply;
  const absl::Status status = (*client)->ListAdded(&reply);
  if (status.ok())
    out_.Print(command_.json ? AddedListJson(reply) : AddedListText(reply, time(nullptr)));
  return Finish(status);
}

int Session::Drop() {
  DropRequest request;
  const absl::Status parsed = AddReferences(request.mutable_names());
  if (!parsed.ok()) return out_.Fail(parsed);
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  RemoveReply reply;
  const absl::Status status = (*client)->Drop(request, &reply);
  if (status.ok()) out_.Print(command_.json ? RemoveJson(reply) : RemoveText(reply));
  return Finish(status);
}

int Session::RemoveBy(absl::Status (DaemonClient::*call)(const RemoveRequest&, RemoveReply*)) {
  RemoveRequest request;
  const absl::Status parsed = AddReferences(request.mutable_references());
  if (!parsed.ok()) return out_.Fail(parsed);
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  RemoveReply reply;
  const absl::Status status = ((**client).*call)(request, &reply);
  if (status.ok()) out_.Print(command_.json ? RemoveJson(reply) : RemoveText(reply));
  return Finish(status);
}

int Session::Index() {
  IndexRequest request;
  absl::StatusOr<ImageRequest> image = MakeImageRequest();
  if (!image.ok()) return out_.Fail(image.status());
  *request.mutable_image() = *std::move(image);
  request.set_push(command_.push);
  request.set_profile(command_.profile);
  request.set_progress(ShowProgress());
  if (!command_.file.empty()) {
    absl::StatusOr<std::string> file = CheckArchive(command_.file);
    if (!file.ok()) return out_.Fail(file.status());
    request.set_file(*std::move(file));
  }
  if (!command_.to.empty()) {
    absl::StatusOr<Reference> to = Reference::Parse(command_.to);
    if (!to.ok()) return out_.Fail(to.status());
    request.set_to(to->ToString());
    AddCredential(*to, request.mutable_to_credential());
  }
  // First, so that a key that is of no use is known before the work is done.
  std::vector<MinisignSecretKey> keys;
  for (const std::string& path : command_.sign) {
    absl::StatusOr<MinisignSecretKey> key = ReadSigningKey(path, interrupts_);
    if (!key.ok()) return Finish(key.status());
    keys.push_back(*std::move(key));
  }
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  absl::Status status = SignIndex(**client, std::move(keys), request);
  if (!status.ok()) return Finish(status);
  absl::StatusOr<MountResult> result = Transfer(**client, request, &DaemonClient::Index);
  if (!result.ok()) return Finish(result.status());
  out_.Print(command_.json ? IndexJson(*result) : IndexText(*result));
  return 0;
}

// Asks the daemon what is to be signed and puts the signatures into the request.
absl::Status Session::SignIndex(DaemonClient& client, std::vector<MinisignSecretKey> keys,
                                IndexRequest& request) {
  if (keys.empty()) return absl::OkStatus();
  request.set_statement_only(true);
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result,
                           Transfer(client, request, &DaemonClient::Index));
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
  // Of the image that was resolved just now, whatever its tag is by the second call.
  if (request.image().pull_policy() == ImageRequest::ALWAYS) {
    request.mutable_image()->set_pull_policy(ImageRequest::MISSING);
  }
  return absl::OkStatus();
}

int Session::Profile() {
  ProfileRequest request;
  absl::StatusOr<ImageRequest> image = MakeImageRequest();
  if (!image.ok()) return out_.Fail(image.status());
  *request.mutable_image() = *std::move(image);
  request.set_verb(command_.action == "export" ? "show" : command_.action);
  if (command_.action == "import") {
    absl::StatusOr<std::string> text = ReadFile(
        command_.file.empty() ? "/dev/stdin" : command_.file, kMaxProfileBytes, kProfilePatienceMs);
    if (!text.ok()) return out_.Fail(text.status());
    request.set_json(*std::move(text));
  }
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  ProfileReply reply;
  absl::Status status = (*client)->Profile(request, &reply);
  if (absl::IsNotFound(status)) {
    // The image is not here, yet or any longer: its registry says which manifest it is.
    InspectRequest inspect;
    *inspect.mutable_image() = request.image();
    InspectReply about;
    status = (*client)->Inspect(inspect, &about);
    if (status.ok()) {
      absl::StatusOr<Reference> reference = Reference::Parse(request.image().reference());
      absl::StatusOr<Digest> manifest = Digest::Parse(about.image().manifest_digest());
      if (!reference.ok()) return out_.Fail(reference.status());
      if (!manifest.ok()) return out_.Fail(manifest.status());
      reference->digest = *manifest;
      request.mutable_image()->set_reference(reference->ToString());
      status = (*client)->Profile(request, &reply);
    }
  }
  if (!status.ok()) return Finish(status);
  if (command_.action == "export" || (command_.action == "show" && command_.json)) {
    out_.Print(reply.json() + "\n");
  } else if (command_.action == "show") {
    out_.Print(ProfileText(reply));
  } else if (command_.json) {
    out_.Print(ProfileJson(reply));
  }
  return 0;
}

// Status 3 tells of damage, whatever became of it.
int Session::Check() {
  CheckRequest request;
  request.set_repair(command_.repair);
  const absl::Status parsed = AddReferences(request.mutable_references());
  if (!parsed.ok()) return out_.Fail(parsed);
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  CheckReply reply;
  const absl::Status status = (*client)->Check(request, &reply);
  if (!status.ok()) return Finish(status);
  out_.Print(command_.json ? CheckJson(reply) : CheckText(reply));
  const bool damage = std::any_of(
      reply.layers().begin(), reply.layers().end(),
      [](const auto& layer) { return layer.state() == "repaired" || layer.state() == "lost"; });
  return damage || reply.findings_size() > 0 ? kDamageExit : 0;
}

int Session::MountStatus() {
  const absl::StatusOr<std::string> directory = AbsolutePath(command_.directory);
  if (!directory.ok()) return out_.Fail(directory.status());
  auto client = Connect(/*start=*/true);
  if (!client.ok()) return Finish(client.status());
  MountStatusReply reply;
  const absl::Status status = (*client)->MountStatus(*directory, &reply);
  if (status.ok()) out_.Print(command_.json ? MountStatusJson(reply) : MountStatusText(reply));
  return Finish(status);
}

int Session::GetStatus() {
  if (!command_.directory.empty()) return MountStatus();
  auto client = ConnectToAny();
  if (!client.ok()) return Finish(client.status());
  StatusReply reply;
  const absl::Status status = (*client)->GetStatus(&reply);
  if (status.ok()) out_.Print(command_.json ? StatusJson(reply) : StatusText(reply));
  return Finish(status);
}

// Ends with 0 only when no daemon of the store is left.
int Session::Stop() {
  auto client = ConnectToAny();
  if (absl::IsUnavailable(client.status()) || absl::IsFailedPrecondition(client.status())) {
    // One that starts, ends, or makes its sockets again.
    Interrupts::Reminder reminder(interrupts_, kSilence, [this] {
      out_.Note(StrCat("imagefs: waiting for the daemon of ", paths_.root, "\n"));
    });
    const absl::Status there = AwaitListener(paths_, std::chrono::milliseconds(kStopTimeoutMs));
    client = there.ok() ? ConnectToAny() : there;
  }
  if (absl::IsNotFound(client.status())) {
    if (command_.json) out_.Print(StopJson(0));
    return 0;
  }
  if (!client.ok()) return Finish(client.status());
  control::v1::ShutdownReply reply;
  if (const absl::Status told = (*client)->Shutdown(command_.unmount, &reply); !told.ok()) {
    return Finish(told);
  }
  const pid_t pid = reply.pid();
  client->reset();
  absl::Status status;
  {
    Interrupts::Reminder reminder(interrupts_, kSilence, [this, pid] {
      out_.Note(StrCat("imagefs: waiting for the end of the daemon with pid ", pid, "\n"));
    });
    status = WaitForExit(pid, kStopTimeoutMs);
  }
  if (status.ok() && command_.json) out_.Print(StopJson(pid));
  if (const uint32_t waiting = reply.waiting_mounts(); status.ok() && waiting > 0) {
    out_.Note(StrCat(
        "imagefs: ", waiting, waiting == 1 ? " mount stays and needs" : " mounts stay and need",
        " a daemon: who reads there waits until the next command starts one; imagefs stop "
        "--unmount takes ",
        waiting == 1 ? "it" : "them", " away\n"));
  }
  return Finish(status);
}

int CheckConfig(const Command& command, Output& out) {
  const absl::Status status = LoadConfig(command.check_config).status();
  if (!status.ok()) return out.Fail(status);
  out.Print(command.json ? CheckedJson(command.check_config) : "OK\n");
  return 0;
}

int RunVerb(Command command, std::string_view version, const DaemonProgramParts* daemon,
            Output& out) {
  if (!command.check_config.empty()) return CheckConfig(command, out);
  const std::string directory = AbsolutePath(".").value_or("");
  absl::StatusOr<Paths> paths =
      ResolvePaths(command.root, command.run, directory, geteuid(), ProcessEnvironment);
  absl::Status status = paths.status();
  if (status.ok()) status = CheckDescriptors();
  if (status.ok()) status = CheckSettingFile("--config", &command.config);
  if (status.ok()) status = CheckSettingFile("--ca-file", &command.ca_file);
  if (!status.ok()) return out.Fail(status);
  if (command.verb == "daemon") return daemon->run(command, *std::move(paths), version, out);
  Session session(command, *std::move(paths), version, daemon, out);
  if (command.verb == "mount") return session.Mount();
  if (command.verb == "pull") return session.Pull();
  if (command.verb == "umount") return session.Umount();
  if (command.verb == "ls") return session.Ls();
  if (command.verb == "images") return session.Images();
  if (command.verb == "index") return session.Index();
  if (command.verb == "profile") return session.Profile();
  if (command.verb == "evict") return session.Evict();
  if (command.verb == "check") return session.Check();
  if (command.verb == "inspect") return session.Inspect();
  if (command.verb == "rpull") return session.Rpull();
  if (command.verb == "rm") return session.Rm();
  if (command.verb == "add") return session.Add();
  if (command.verb == "drop") return session.Drop();
  if (command.verb == "status") return session.GetStatus();
  return session.Stop();
}

}  // namespace

bool NeedsDaemonProgram(const Command& command) {
  return command.verb == "daemon" || (command.verb == "mount" && command.foreground);
}

int RunCommand(const Command& command, std::string_view version, const DaemonProgramParts* daemon) {
  google::protobuf::SetLogHandler(
      nullptr);  // what it would say on standard error, our messages say
  Output out(command.json);
  return out.Finish(RunVerb(command, version, daemon, out));
}

}  // namespace imagefs
