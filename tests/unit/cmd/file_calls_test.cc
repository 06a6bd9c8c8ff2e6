// SPDX-License-Identifier: Apache-2.0
// The calls Files and Diff of the control service, over a chain made by hand.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "proto/control.grpc.pb.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/fake_store.h"
#include "tests/fakes/fs/test_chain.h"
#include "tests/unit/cmd/control_server.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages of the service

class FileCallsTest : public ControlServerTest {
 protected:
  FileCallsTest() : ControlServerTest(/*layers=*/1, "file-calls") {}

  void Use(const TestChain& made) {
    chain_ = made.Build(dir_);
    store_.UseChain(chain_);
  }
  static FilesRequest Request(std::vector<std::string> paths) {
    FilesRequest request;
    request.mutable_image()->set_reference("registry.test/app:1");
    for (std::string& path : paths) request.add_paths(std::move(path));
    request.set_content(true);
    return request;
  }
  struct Reply {
    grpc::Status status;
    bool result = false;
    std::vector<FileEntry> entries;
    std::vector<std::string> contents;  // of each entry, with zeros for holes up to the last byte
    std::string bytes;                  // of all data
    size_t messages = 0;
  };
  static Reply Finish(grpc::ClientReader<MountEvent>& reader) {
    Reply reply;
    MountEvent event;
    while (reader.Read(&event)) {
      reply.result |= event.has_result();
      if (event.has_files()) ++reply.messages;
      for (const FileItems::Item& item : event.files().items()) {
        if (item.has_entry()) {
          reply.entries.push_back(item.entry());
          reply.contents.emplace_back();
          continue;
        }
        reply.bytes += item.data().bytes();
        if (!reply.contents.empty()) {
          reply.contents.back().resize(item.data().offset());
          reply.contents.back() += item.data().bytes();
        }
      }
    }
    reply.status = reader.Finish();
    return reply;
  }
  Reply Files(const FilesRequest& request) {
    grpc::ClientContext context;
    return Finish(*stub_->Files(&context, request));
  }

  ChainRef chain_;
};

TEST_F(FileCallsTest, EntriesAndBytesInOrder) {
  const std::string large = PatternBytes(1'000'000, 1);
  TestChain made;
  made.Dir("d", 0700);
  made.File("d/large", large);
  made.HardLink("d/second", "d/large");
  made.Sparse("holes", 100'000, {{8192, "part"}});
  made.Symlink("link", "d/large");
  made.Xattrs("d", {{"user.a", "b"}});
  Use(made);
  FilesRequest request = Request({"/"});
  request.set_depth(UINT32_MAX);
  const Reply reply = Files(request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_TRUE(reply.result);
  std::vector<std::string> paths;
  for (const FileEntry& entry : reply.entries) paths.push_back(entry.path());
  ASSERT_EQ(paths,
            (std::vector<std::string>{"/", "/d", "/d/large", "/d/second", "/holes", "/link"}));
  EXPECT_EQ(reply.entries[1].mode(), S_IFDIR | 0700u);
  EXPECT_EQ(reply.entries[1].xattrs(0).value(), "b");
  EXPECT_EQ(reply.contents[2], large);
  EXPECT_FALSE(reply.entries[2].sparse());
  EXPECT_EQ(reply.entries[3].hard_link_to(), "/d/large");
  EXPECT_EQ(reply.contents[3], "");
  EXPECT_TRUE(reply.entries[4].sparse());
  EXPECT_EQ(reply.contents[4].substr(8192, 4), "part");
  EXPECT_EQ(reply.contents[4].size(), 12'288u) << "whole pages, and not the hole behind them";
  EXPECT_EQ(reply.entries[5].target(), "d/large");
  EXPECT_GE(reply.messages, 4u) << "no message is much larger than 256 KiB";
}

TEST_F(FileCallsTest, PathsAreCheckedBeforeAnythingIsSent) {
  TestChain made;
  made.Dir("d");
  made.File("d/file", "x");
  Use(made);
  FilesRequest request = Request({"/d/file", "/d/fill"});
  Reply reply = Files(request);
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(reply.status.error_message(),
            "registry.test/app:1: /d/fill: no such file; the nearest name is file");
  EXPECT_TRUE(reply.entries.empty());
  request = Request({"/d"});
  request.set_regular(true);
  EXPECT_EQ(Files(request).status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Files(Request({})).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Files(Request({"d/file"})).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(FileCallsTest, BytesThatAreNotLocalAreWaitedFor) {
  TestChain made;
  made.File("a", "local in the list");
  made.File("b", std::string(10'000, 'b'));
  Use(made);
  const auto fill = FakeFill::Empty(chain_->layers[0]);
  fill->Hold();
  FilesRequest list = Request({"/"});
  list.set_content(false);
  list.set_depth(1);
  EXPECT_EQ(Files(list).entries.size(), 3u) << "a list needs no bytes";
  EXPECT_EQ(fill->calls(), 0u);
  grpc::ClientContext context;
  auto reader = stub_->Files(&context, Request({"/b"}));
  MountEvent first;  // what is ready is sent before
  ASSERT_TRUE(reader->Read(&first));
  ASSERT_EQ(first.files().items_size(), 1);
  fill->AwaitHeld(1);
  fill->Release();
  const Reply reply = Finish(*reader);
  EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.bytes, std::string(10'000, 'b'));
  EXPECT_FALSE(fill->asked().Contains({0, 1})) << "only the bytes of the file";
}

TEST_F(FileCallsTest, AFailureInTheMiddleEndsTheCall) {
  TestChain made;
  made.File("a", "x");
  Use(made);
  const auto fill = FakeFill::Empty(chain_->layers[0]);
  fill->Fail(absl::DataLossError("wrong bytes"));
  const Reply reply = Files(Request({"/a"}));
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(reply.status.error_message(), "registry.test/app:1: /a: wrong bytes");
  EXPECT_FALSE(reply.result);
  ASSERT_EQ(reply.entries.size(), 1u) << "what was ready had been sent";
}

TEST_F(FileCallsTest, ACallerThatLeavesGivesUpItsRead) {
  TestChain made;
  made.File("a", "x");
  Use(made);
  const auto fill = FakeFill::Empty(chain_->layers[0]);
  fill->Hold();
  grpc::ClientContext context;
  auto reader = stub_->Files(&context, Request({"/a"}));
  MountEvent first;
  ASSERT_TRUE(reader->Read(&first));
  fill->AwaitHeld(1);
  context.TryCancel();
  EXPECT_EQ(Finish(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(FileCallsTest, ALayerThatIsNotProvenIsNotEnoughForAnEagerCall) {
  TestChain made;
  made.File("a", "x");
  Use(made);
  const auto fill = FakeFill::Empty(chain_->layers[0]);
  fill->Hold();
  FilesRequest request = Request({"/a"});
  request.set_eager(true);
  EXPECT_EQ(Files(request).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(FileCallsTest, AnImageDoesNotDifferFromItself) {
  TestChain made;
  made.File("a", "x");
  Use(made);
  DiffRequest request;
  request.mutable_before()->set_reference("registry.test/app:1");
  request.mutable_after()->set_reference("registry.test/app:1");
  grpc::ClientContext context;
  auto reader = stub_->Diff(&context, request);
  MountEvent event;
  bool result = false;
  while (reader->Read(&event)) {
    EXPECT_FALSE(event.has_changes());
    result |= event.has_result();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(result);
}

}  // namespace
}  // namespace imagefs
